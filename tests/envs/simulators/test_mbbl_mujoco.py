"""Hand-computed rewards, ends and observations of MBBL's MuJoCo tasks."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest

import envs
from envs.simulators import mbbl_rewards as rewards

ET = ["Ant", "Walker2D", "Hopper", "SlimHumanoid"]  # with and without early termination


def at(task_id, qpos=None, qvel=None, **options):
    """The task at its model's rest state, with single components of qpos and qvel changed."""
    env = envs.make(task_id, seed=0, **options)
    env.reset()
    base = env.unwrapped
    positions, velocities = base.init_qpos.copy(), np.zeros(base.model.nv)
    for target, changes in ((positions, qpos), (velocities, qvel)):
        for index, value in (changes or {}).items():
            target[index] = value
    base.set_state(positions, velocities)
    return env


def const(value, count):
    return np.full(count, value)


@pytest.mark.parametrize(
    ("task_id", "qpos", "qvel", "action", "reward"),
    [
        # -0.3², whatever the action.
        ("mbbl/InvertedPendulum", {0: 0.5, 1: 0.3}, {0: 2.0}, const(9.0, 1), -0.09),
        # Stretched arm: fingertip (0.21, 0), target (0.18, -0.04): -0.05 - (2² + 1²).
        ("mbbl/Reacher", {2: 0.18, 3: -0.04}, {}, np.array([2.0, -1.0]), -5.05),
        # v = 2, action twice the box: 2 - 0.1·6·2².
        ("mbbl/HalfCheetah", {}, {0: 2.0}, const(2.0, 6), -0.4),
        # 0.7 - 1e-4·(3² + 4²)
        ("mbbl/SwimmerV0", {}, {0: 0.7}, np.array([3.0, -4.0]), 0.6975),
        # No tip speed yet at the start: -1e-4·25, though the root moves.
        ("mbbl/Swimmer", {}, {0: 0.7}, np.array([3.0, -4.0]), -0.0025),
        # 0.5 - 3·0.1² - 0.1·2² + 1
        ("mbbl/Hopper", {1: 1.2}, {0: 0.5}, np.array([2.0, 0.0, 0.0]), 1.07),
        # 0.5 - 3·0.2² - 0.1·6·1² + 1
        ("mbbl/Walker2D", {1: 1.1}, {0: 0.5}, const(1.0, 6), 0.78),
        # 1 - 3·0.2² - 0.1·8·2² + 1
        ("mbbl/Ant", {2: 0.77}, {0: 1.0}, const(2.0, 8), -1.32),
        # (0.25/0.015)·0.3 - 0.1·17·1² + 5
        ("mbbl/SlimHumanoid", {2: 1.4}, {0: 0.3}, const(1.0, 17), 8.3),
        ("mbbl/SlimHumanoid-ET", {2: 1.4}, {0: 0.3}, const(1.0, 17), 8.3),
        # The same in the air, where there is no contact force to pay for.
        ("mbbl/Humanoid-ET", {2: 1.4}, {0: 0.3}, const(1.0, 17), 8.3),
        # Alive: as without ET.
        ("mbbl/Hopper-ET", {1: 1.2}, {0: 0.5}, np.array([2.0, 0.0, 0.0]), 1.07),
        ("mbbl/Walker2D-ET", {1: 1.1}, {0: 0.5}, const(1.0, 6), 0.78),
        ("mbbl/Ant-ET", {2: 0.77}, {0: 1.0}, const(2.0, 8), -1.32),
        # Fallen at t, by height: the bonus stays without ET and goes with it.
        ("mbbl/Hopper", {1: 0.6}, {0: 0.5}, const(0.0, 3), 0.5 - 3 * 0.49 + 1),
        ("mbbl/Hopper-ET", {1: 0.6}, {0: 0.5}, const(0.0, 3), 0.5 - 3 * 0.49),
        ("mbbl/Walker2D", {1: 2.1}, {0: 0.5}, const(0.0, 6), 0.5 - 3 * 0.64 + 1),
        ("mbbl/Walker2D-ET", {1: 2.1}, {0: 0.5}, const(0.0, 6), 0.5 - 3 * 0.64),
        ("mbbl/Ant", {2: 1.07}, {0: 1.0}, const(0.0, 8), 1 - 3 * 0.25 + 1),
        ("mbbl/Ant-ET", {2: 1.07}, {0: 1.0}, const(0.0, 8), 1 - 3 * 0.25),
        ("mbbl/SlimHumanoid", {2: 2.5}, {0: 0.3}, const(1.0, 17), 3.3),
        ("mbbl/SlimHumanoid-ET", {2: 2.5}, {0: 0.3}, const(1.0, 17), 3.3),
        ("mbbl/Humanoid-ET", {2: 2.5}, {0: 0.3}, const(1.0, 17), 3.3),
    ],
)
def test_reward_by_hand(task_id, qpos, qvel, action, reward):
    assert at(task_id, qpos, qvel).step(action)[1] == pytest.approx(reward, abs=1e-10)


@pytest.mark.parametrize(
    ("name", "qpos", "qvel", "reward"),
    [
        # Leaning 0.19 and tipping at 5 rad/s: at 0.2 the episode ends. 1 - 3·0.05².
        ("Hopper", {2: 0.19}, {2: 5.0}, 0.9925),
        # Leaning 0.99 in the air and tipping: ends at 1. 1 - 3·0.2².
        ("Walker2D", {1: 1.5, 2: 0.99}, {2: 5.0}, 0.88),
        # Rising through 2.0 m. 1 - 3·0.69².
        ("Walker2D", {1: 1.99}, {1: 5.0}, -0.4283),
        # Rising through 1.0 m. 1 - 3·0.42².
        ("Ant", {2: 0.99}, {2: 2.0}, 0.4708),
        # Rising through 2.0 m. Bonus only.
        ("SlimHumanoid", {2: 1.99}, {2: 5.0}, 5.0),
    ],
)
def test_the_terminating_step_earns_the_bonus(name, qpos, qvel, reward):
    env = at(f"mbbl/{name}-ET", qpos, qvel)
    action = np.zeros(env.action_space.shape)
    _, got, terminated, truncated, _ = env.step(action)
    assert got == pytest.approx(reward, abs=1e-10)
    assert (terminated, truncated) == (True, False)
    # The task without ET pays the same here and goes on.
    _, got, terminated, truncated, _ = at(f"mbbl/{name}", qpos, qvel).step(action)
    assert got == pytest.approx(reward, abs=1e-10)
    assert (terminated, truncated) == (False, False)


def test_humanoid_terminates_and_earns_the_bonus():
    env = at("mbbl/Humanoid-ET", {2: 1.99}, {2: 5.0})
    assert env.step(np.zeros(17))[1:4] == (pytest.approx(5.0), True, False)


def test_falling_on_the_last_step_is_both():
    env = at("mbbl/Ant-ET", {2: 0.99}, {2: 2.0})
    env.unwrapped._elapsed = 999
    assert env.step(np.zeros(8))[2:4] == (True, True)


@pytest.mark.parametrize(
    ("fallen", "inside", "outside"),
    [
        (rewards.hopper_fallen, [(0.71, 0.0), (5.0, 0.19)], [(0.7, 0.0), (1.0, 0.2), (1.0, -0.2)]),
        (
            rewards.walker_fallen,
            [(0.81, 0.99), (1.99, -0.99)],
            [(0.8, 0.0), (2.0, 0.0), (1.2, 1.0), (1.2, -1.0)],
        ),
        (rewards.ant_fallen, [(0.2, 9.0), (1.0, 9.0)], [(0.19, 0.0), (1.01, 0.0)]),
        (rewards.humanoid_fallen, [(1.0, 9.0), (2.0, 9.0)], [(0.99, 0.0), (2.01, 0.0)]),
    ],
)
def test_end_conditions_at_their_edges(fallen, inside, outside):
    assert not any(fallen(np.array(obs)) for obs in inside)
    assert all(fallen(np.array(obs)) for obs in outside)


def test_humanoid_contact_cost_is_capped():
    obs, action = np.zeros(376), np.zeros(17)
    obs[0] = 1.4
    obs[-84:] = 100.0  # 5e-7·84·100² = 0.42
    assert rewards.humanoid(obs, action) == pytest.approx(4.58)
    obs[-84:] = 1000.0  # 42, capped at 10
    assert rewards.humanoid(obs, action) == pytest.approx(-5.0)


def test_humanoid_observes_contact_forces_on_the_ground():
    env = envs.make("mbbl/Humanoid-ET", seed=0)
    assert not env.reset()[0][-84:].any()
    forces = [env.step(np.zeros(17))[0][-84:] for _ in range(40)]
    assert any(force.any() for force in forces)
    assert not any(force[:6].any() for force in forces)  # the world body feels none


@pytest.mark.parametrize(
    ("task_id", "positions", "velocities"),
    [
        ("mbbl/InvertedPendulum", slice(None), slice(None)),
        ("mbbl/HalfCheetah", slice(1, 9), slice(None)),
        ("mbbl/SwimmerV0", slice(2, 5), slice(None)),
        ("mbbl/Hopper", slice(1, 6), slice(None)),
        ("mbbl/Walker2D", slice(1, 9), slice(None)),
        ("mbbl/Ant", slice(2, 15), slice(None)),
        ("mbbl/SlimHumanoid", slice(2, 24), slice(None)),
    ],
)
def test_observation_is_positions_then_velocities(task_id, positions, velocities):
    env = envs.make(task_id, seed=0)
    env.reset()
    obs = env.step(env.action_space.sample())[0]
    data = env.unwrapped.data
    np.testing.assert_array_equal(
        obs, np.concatenate((data.qpos[positions], data.qvel[velocities]))
    )


def test_velocities_are_not_clipped():
    assert at("mbbl/Hopper", {}, {0: 40.0}).step(np.zeros(3))[0][5] > 30.0


def test_reacher_observation_by_hand():
    env = at("mbbl/Reacher", {0: np.pi / 2, 2: 0.05, 3: 0.1}, {0: 3.0, 1: -2.0})
    # The upper arm points along y, so the fingertip is at (0, 0.21).
    expected = [0.0, 1.0, 1.0, 0.0, 0.05, 0.1, 3.0, -2.0, -0.05, 0.11, 0.0]
    np.testing.assert_allclose(env.unwrapped._observe(), expected, atol=1e-12)


def test_humanoid_observation_has_376_parts_in_order():
    env = envs.make("mbbl/Humanoid-ET", seed=0)
    env.reset()
    for _ in range(30):
        obs = env.step(env.action_space.sample())[0]
    data = env.unwrapped.data
    parts = np.split(obs, np.cumsum([22, 23, 140, 84, 23]))
    wanted = (
        data.qpos[2:], data.qvel, data.cinert, data.cvel, data.qfrc_actuator, data.cfrc_ext
    )  # fmt: skip
    for part, field in zip(parts, wanted, strict=True):
        np.testing.assert_array_equal(part, np.ravel(field))
    assert obs.size == 376


def test_swimmer_tip_speed():
    env = envs.make("mbbl/Swimmer", seed=0)
    obs = env.reset()[0]
    data = env.unwrapped.data
    assert obs[8] == 0.0
    for _ in range(3):
        before = data.qpos[0] + 1.5 * np.cos(data.qpos[2])
        previous = obs[8]
        obs, reward, *_ = env.step(np.array([1.0, -1.0]))
        after = data.qpos[0] + 1.5 * np.cos(data.qpos[2])
        assert obs[8] == pytest.approx((after - before) / 0.04)
        assert reward == pytest.approx(previous - 2e-4)  # one step late
    assert env.reset()[0][8] == 0.0


def test_swimmer_tip_is_the_end_of_the_head():
    env = at("mbbl/Swimmer", {0: 0.3, 1: -0.2, 2: 0.8})
    torso = env.unwrapped.data.body("torso")
    tip = torso.xpos + torso.xmat.reshape(3, 3) @ [1.5, 0.0, 0.0]
    assert env.unwrapped._tip() == pytest.approx(tip[0])


def test_the_action_does_not_change_its_own_velocity_term():
    rewarded = [at("mbbl/HalfCheetah").step(const(a, 6))[1] for a in (1.0, -1.0)]
    assert rewarded == pytest.approx([-0.6, -0.6])


@pytest.mark.parametrize(("task_id", "box"), [("mbbl/HalfCheetah", 1.0), ("mbbl/Humanoid-ET", 0.4)])
def test_the_simulator_clamps_what_the_reward_does_not(task_id, box):
    inside, outside = at(task_id), at(task_id)
    size = inside.action_space.shape[0]
    assert inside.action_space.high == pytest.approx(const(box, size))
    moved = [inside.step(const(box, size)), outside.step(const(3 * box, size))]
    np.testing.assert_array_equal(moved[0][0], moved[1][0])
    assert moved[0][1] - moved[1][1] == pytest.approx(0.1 * size * 8 * box**2)


@pytest.mark.parametrize(
    ("task_id", "dt"),
    [
        ("mbbl/InvertedPendulum", 0.04),
        ("mbbl/Reacher", 0.02),
        ("mbbl/HalfCheetah", 0.05),
        ("mbbl/Swimmer", 0.04),
        ("mbbl/SwimmerV0", 0.04),
        ("mbbl/Hopper", 0.008),
        ("mbbl/Walker2D", 0.008),
        ("mbbl/Ant", 0.05),
        ("mbbl/Humanoid-ET", 0.015),
        ("mbbl/SlimHumanoid", 0.015),
    ],
)
def test_control_step(task_id, dt):
    env = envs.make(task_id, seed=0)
    env.reset()
    env.step(np.zeros(env.action_space.shape))
    assert env.unwrapped.dt == pytest.approx(dt)
    assert env.unwrapped.data.time == pytest.approx(dt)


@pytest.mark.parametrize(
    ("task_id", "position", "velocity", "normal", "centred"),
    [
        ("mbbl/InvertedPendulum", 0.01, 0.01, False, 0),
        ("mbbl/HalfCheetah", 0.1, 0.1, True, 1),
        ("mbbl/SwimmerV0", 0.1, 0.1, False, 2),
        ("mbbl/Swimmer", 0.1, 0.1, False, 0),
        ("mbbl/Hopper", 0.005, 0.005, False, 1),
        ("mbbl/Walker2D", 0.005, 0.005, False, 1),
        ("mbbl/Ant", 0.1, 0.1, True, 2),
        ("mbbl/SlimHumanoid", 0.01, 0.01, False, 0),
    ],
)
def test_reset_noise(task_id, position, velocity, normal, centred):
    env = envs.make(task_id, seed=0)
    starts = []
    for _ in range(100):
        env.reset()
        data = env.unwrapped.data
        starts.append((data.qpos - env.unwrapped.init_qpos, data.qvel.copy()))
    qpos, qvel = (np.array(part) for part in zip(*starts, strict=True))
    assert not qpos[:, :centred].any()
    assert 0.98 * position < np.abs(qpos[:, centred:]).max() <= position
    if normal:
        assert qvel.std() == pytest.approx(velocity, rel=0.1)
        assert np.abs(qvel).max() > 2 * velocity
    else:
        assert 0.98 * velocity < np.abs(qvel).max() <= velocity


def test_reacher_target_is_drawn_in_a_square_and_rests():
    env = envs.make("mbbl/Reacher", seed=0)
    targets = np.array([env.reset()[0][4:6] for _ in range(200)])
    assert 0.19 < np.abs(targets).max() <= 0.2
    assert np.hypot(*targets.T).max() > 0.2  # a disc would stop here
    assert not env.unwrapped.data.qvel[2:].any()


def test_numbers_put_back_to_gym_094():
    pendulum, humanoid, walker = (
        envs.make(f"mbbl/{name}").unwrapped.model
        for name in ("InvertedPendulum", "SlimHumanoid", "Walker2D")
    )
    assert not pendulum.actuator_ctrllimited.any()
    np.testing.assert_allclose(np.rad2deg(humanoid.joint("left_hip_y").range), [-120.0, 20.0])
    assert walker.geom("foot_geom").friction[0] == pytest.approx(0.9)
    assert walker.geom("foot_left_geom").friction[0] == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("task_id", "width"), [("HalfCheetah-O01", 0.1), ("HalfCheetah-O001", 0.01)]
)
def test_observation_noise(task_id, width):
    env = envs.make(f"mbbl/{task_id}", seed=0)
    start = env.reset()[0]
    np.testing.assert_array_equal(start, env.unwrapped._observe())
    obs = env.step(np.zeros(6))[0]
    errors = obs - env.unwrapped._observe()
    assert 0.5 * width < np.abs(errors).max() <= width
    # The next reward reads the noisy velocity.
    assert env.step(const(1.0, 6))[1] == pytest.approx(obs[8] - 0.6)


def test_observation_noise_with_a_clean_reward():
    env = envs.make("mbbl/HalfCheetah-O01", seed=0, noisy_reward_on="clean")
    env.reset()
    env.step(np.zeros(6))
    speed = float(env.unwrapped.data.qvel[0])
    assert env.step(const(1.0, 6))[1] == pytest.approx(speed - 0.6)


@pytest.mark.parametrize(
    ("task_id", "width"), [("HalfCheetah-A01", 0.1), ("HalfCheetah-A003", 0.03)]
)
def test_action_noise_is_in_the_physics_and_the_reward(task_id, width):
    env = envs.make(f"mbbl/{task_id}", seed=0)
    obs = env.reset()[0]
    noise = copy.deepcopy(env.unwrapped.np_random).uniform(-width, width, 6)
    after, reward, *_ = env.step(const(0.5, 6))
    np.testing.assert_array_equal(env.unwrapped.data.ctrl, 0.5 + noise)
    assert reward == pytest.approx(obs[8] - 0.1 * np.sum((0.5 + noise) ** 2))
    np.testing.assert_array_equal(after, env.unwrapped._observe())


@pytest.mark.parametrize("name", ET)
def test_a_task_and_its_et_twin_move_alike(name):
    plain, ending = envs.make(f"mbbl/{name}", seed=0), envs.make(f"mbbl/{name}-ET", seed=0)
    np.testing.assert_array_equal(plain.reset()[0], ending.reset()[0])
    action = plain.action_space.sample()
    np.testing.assert_array_equal(plain.step(action)[0], ending.step(action)[0])


def test_image():
    code = """
import sys
import mujoco
try:
    mujoco.GLContext(64, 48)
except Exception as error:
    print(error)
    sys.exit(77)
import envs
env = envs.make("mbbl/HalfCheetah", seed=0, render_mode="rgb_array", width=64, height=48)
env.reset()
image = env.render()
assert image.shape == (48, 64, 3) and image.std() > 0
assert env.metadata["render_fps"] == 20
"""
    # A process of its own: MUJOCO_GL counts only before mujoco is imported.
    surroundings = {"MUJOCO_GL": "egl"} | dict(os.environ)
    done = subprocess.run(
        [sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip(f"no GL here: {done.stdout}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "steps"), [("InvertedPendulum", 101), ("Reacher", 50), ("HalfCheetah", 1000)]
)
def test_episode_length(name, steps):
    env = envs.make(f"mbbl/{name}", seed=0)
    env.reset()
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(steps)]
    assert ends == [(False, False)] * (steps - 1) + [(False, True)]
