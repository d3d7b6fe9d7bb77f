"""Tasks with hidden velocities: what is hidden, what is shown, and that nothing else differs."""

import numpy as np
import pytest

import envs

# The task with full observations and the names of the hidden components.
TASKS = {
    "pomdp/HalfCheetah": "mbbl/HalfCheetah",
    "pomdp/Humanoid": "mbbl/Humanoid-ET",
    "pomdp/Walker": "mbbl/Walker2D-ET",
    "pomdp/Ant": "mbbl/Ant-ET",
    "pomdp/Hopper": "mbbl/Hopper-ET",
    "pomdp/Pendulum": "mbbl/Pendulum",
}


def velocities(env):
    """The simulator's generalised velocities."""
    base = env.unwrapped
    return base.data.qvel.copy() if hasattr(base, "data") else np.array([base._state[1]])


def hidden_columns(full_obs, qvel):
    """Where `qvel` stands in a full observation; there must be one such place."""
    n = qvel.size
    places = [k for k in range(full_obs.size - n + 1) if np.array_equal(full_obs[k : k + n], qvel)]
    assert len(places) == 1
    return slice(places[0], places[0] + n)


def test_the_six_tasks():
    assert envs.list_tasks("pomdp") == list(TASKS)
    assert [envs.task(task_id).obs_shape[0] // 3 for task_id in TASKS] == [8, 353, 8, 13, 5, 2]


@pytest.mark.parametrize("task_id", TASKS)
def test_observations_are_the_full_ones_without_the_velocities(task_id):
    masked, full = envs.make(task_id, seed=3), envs.make(TASKS[task_id], seed=3)
    first = full.reset()[0]
    hidden = hidden_columns(first, velocities(full))
    past = [np.delete(first, hidden)] * 3
    np.testing.assert_array_equal(masked.reset()[0], np.concatenate(past))
    rng, ended = np.random.default_rng(0), False
    for _ in range(300):
        action = rng.uniform(-1.0, 1.0, full.action_space.shape)
        obs, *wanted = full.step(action)
        past = [*past[1:], np.delete(obs, hidden)]
        shown, *seen = masked.step(action)
        np.testing.assert_array_equal(shown, np.concatenate(past))
        assert seen == wanted  # reward and ends are those of the full state
        ended = wanted[1]
        if wanted[1] or wanted[2]:
            break
    assert ended == envs.task(task_id).terminates


@pytest.mark.parametrize("task_id", [task_id for task_id in TASKS if task_id != "pomdp/Pendulum"])
def test_only_positions_are_seen(task_id):
    env = envs.make(task_id + "@history=1", seed=0)
    env.reset()
    base = env.unwrapped
    # On Humanoid the bodies' velocities, which follow the positions, are left in.
    positions = slice(22) if task_id == "pomdp/Humanoid" else slice(None)

    def seen(qpos, qvel):
        base.set_state(qpos, qvel)
        return env.env.observation(base._observe())[positions]

    qpos, qvel = base.data.qpos.copy(), base.data.qvel.copy()
    start = seen(qpos, qvel)
    np.testing.assert_array_equal(seen(qpos, qvel + 1.0), start)
    root = 2 if task_id in ("pomdp/Ant", "pomdp/Humanoid") else 1  # its place in the world
    for joint in range(root, qpos.size):
        moved = qpos.copy()
        moved[joint] += 0.1
        assert np.flatnonzero(seen(moved, qvel) != start).tolist() == [joint - root]


def test_pendulum_shows_the_angle_only():
    env = envs.make("pomdp/Pendulum@history=1", seed=0)
    env.reset()
    env.unwrapped.set_state((0.5, 0.0))
    one = env.step(np.zeros(1))
    env.unwrapped.set_state((0.5, -3.0))
    two = env.step(np.zeros(1))
    assert one[0].shape == (2,)
    np.testing.assert_allclose(np.hypot(*two[0]), 1.0)
    assert two[1] == pytest.approx(one[1] - 0.1 * 3.0**2)  # the reward still reads the velocity


def test_a_longer_history():
    short, long = (envs.make(f"pomdp/Ant@history={n}", seed=1) for n in (1, 4))
    first = short.reset()[0]
    np.testing.assert_array_equal(long.reset()[0], np.tile(first, 4))
    assert envs.task("pomdp/Ant@history=3") == envs.task("pomdp/Ant")
    past = [first] * 4
    for _ in range(6):
        action = short.action_space.sample()
        past = [*past[1:], short.step(action)[0]]
        shown = long.step(action)[0]
        np.testing.assert_array_equal(shown, np.concatenate(past))
        shown.fill(np.nan)  # what a caller does with it is its own affair
    assert envs.task("pomdp/Ant@history=4").obs_shape == long.observation_space.shape == (52,)
    with pytest.raises(envs.UnknownTask, match="history is from 1 to 100, not 0"):
        envs.task("pomdp/Ant@history=0")


@pytest.mark.parametrize("task_id", TASKS)
def test_a_fresh_environment_continues_bit_by_bit(task_id):
    env, fresh = envs.make(task_id, seed=7), envs.make(task_id)
    env.reset()
    for _ in range(5):
        env.step(env.action_space.sample())
    state = envs.save_state(env)
    envs.load_state(fresh, state)
    for _ in range(4):
        action = env.action_space.sample()
        np.testing.assert_array_equal(fresh.action_space.sample(), action)
        (obs, *rest), (wanted, *others) = fresh.step(action), env.step(action)
        np.testing.assert_array_equal(obs, wanted)
        assert rest == others
    np.testing.assert_array_equal(fresh.reset()[0], env.reset()[0])
    with pytest.raises(ValueError, match="frames of shape"):
        envs.load_state(envs.make(f"{task_id}@history=2"), state)


def test_options_reach_the_simulator():
    env = envs.make("pomdp/Hopper", seed=0, render_mode="rgb_array", width=64, height=48)
    env.reset()
    assert env.render().shape == (48, 64, 3)
    env.close()
    film = envs.make("pomdp/Pendulum", seed=0, render_mode="rgb_array")
    film.reset()
    assert film.render().shape == (480, 480, 3)
