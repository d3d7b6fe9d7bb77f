"""The DeepMind Control Suite: against dm_control itself, and what this layer adds to it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
from dm_control import suite

import analysis
import envs

TASKS = envs.list_tasks("dmc")
# One of each kind of thing that a task keeps outside the simulator's state.
SAMPLE = {
    "dmc/cartpole-balance": "nothing",
    "dmc/finger-turn-easy": "the place and size of a site, and a damping",
    "dmc/fish-swim": "the place of a geom",
    "dmc/manipulator-insert-peg": "the place and angle of bodies",
    "dmc/point-mass-hard": "gains",
    "dmc/quadruped-escape": "terrain",
    "dmc/quadruped-run": "activations of muscles",
    "dmc/swimmer-swimmer6": "the place of a light",
}
# A dog takes most of a second to load.
HEAVY = [task_id for task_id in TASKS if task_id.startswith("dmc/dog-")]


def slow_but(fast):
    return [t if t in fast else pytest.param(t, marks=pytest.mark.slow) for t in TASKS]


def dm_control_episode(task_id, env):
    """dm_control's own environment at the start of the episode that `env` has just begun."""
    facts = envs.task(task_id).kwargs
    other = suite.load(facts["domain"], facts["task"], task_kwargs={"random": 0})
    episode_seed = envs.save_state(env)["0.DmcEnv.episode_seed"][0]
    other.task._random = np.random.RandomState(episode_seed)
    return other, other.reset()


def flat(observation):
    return np.concatenate([np.ravel(observation[name]) for name in sorted(observation)])


def walk(env, steps):
    """`steps` random steps and a reset, everything that comes out as one vector."""
    seen = []
    for _ in range(steps):
        action = env.action_space.sample()
        obs, reward, terminated, truncated, _ = env.step(action)
        seen += [action, obs.ravel(), [reward, terminated, truncated]]
    return np.concatenate([*seen, env.reset()[0].ravel()])


def test_every_task_of_the_suite_is_there():
    named = {(envs.task(t).kwargs["domain"], envs.task(t).kwargs["task"]) for t in TASKS}
    assert named == set(suite.ALL_TASKS)
    assert len(TASKS) == len(suite.ALL_TASKS) == 51


def test_ids_are_those_of_the_published_numbers():
    path = Path(analysis.__file__).parent / "data" / "published" / "published.csv"
    with path.open() as file:
        published = {row["task"] for row in csv.DictReader(file)}
    unknown = set()
    for task_id in sorted(name for name in published if name.startswith("dmc/")):
        try:
            assert envs.task(task_id).id == task_id
        except envs.UnknownTask:
            unknown.add(task_id.partition("@")[0])
    # Not in dm_control's suite: DeepMind's manipulation suite, and sparse rewards of one paper.
    assert unknown == {"dmc/reach-duplo", "dmc/cheetah-run-sparse", "dmc/walker-run-sparse"}


@pytest.mark.parametrize("task_id", slow_but(set(TASKS) - set(HEAVY[1:])))
def test_facts_agree_with_dm_control(task_id):
    env, facts = envs.make(task_id, seed=0), envs.task(task_id)
    obs, _ = env.reset()
    assert facts.obs_shape == env.observation_space.shape == obs.shape
    assert env.action_space.shape == (facts.action_dim,)
    assert obs.dtype == np.float64
    assert env.action_space.low.max() < 0.0 < env.action_space.high.min()
    can_end = type(env._task).get_termination is not suite.base.Task.get_termination
    assert facts.terminates == can_end


@pytest.mark.parametrize("task_id", slow_but(SAMPLE))
def test_an_episode_is_dm_controls(task_id):
    env = envs.make(task_id, seed=5)
    for _ in range(2):
        obs, _ = env.reset()
        other, step = dm_control_episode(task_id, env)
        np.testing.assert_array_equal(obs, flat(step.observation))
        for _ in range(10):
            action = env.action_space.sample()
            obs, reward, terminated, truncated, _ = env.step(action)
            step = other.step(action)
            np.testing.assert_array_equal(obs, flat(step.observation))
            assert (reward, terminated or truncated) == (step.reward, step.last())


def test_the_end_of_an_episode_is_dm_controls():
    env = envs.make("dmc/cartpole-balance", seed=0)
    env.reset()
    other, _ = dm_control_episode("dmc/cartpole-balance", env)
    action = np.zeros(1)
    for _ in range(999):
        assert env.step(action)[2:4] == (False, False)
        assert not other.step(action).last()
    last = other.step(action)
    assert (last.last(), last.discount) == (True, 1.0)
    assert env.step(action)[2:4] == (False, True)
    env.reset()
    assert env.step(action)[2:4] == (False, False)


@pytest.mark.parametrize("task_id", ["dmc/lqr-lqr-2-1", "dmc/lqr-lqr-6-2"])
def test_an_lqr_terminates_at_rest_and_is_always_the_same(task_id):
    env, other = envs.make(task_id + "@action_repeat=4", seed=0), envs.make(task_id, seed=1)

    def step_at_rest(elapsed):
        env.reset()
        state = envs.save_state(env) | {"0.DmcEnv.elapsed": np.array([elapsed])}
        envs.load_state(env, state)
        env._data.qpos[:] = env._data.qvel[:] = 0.0
        mujoco.mj_step1(env._model, env._data)
        return env.step(np.zeros(env.action_space.shape))[1:4]

    # One control step of the four: at rest each pays 1.
    assert step_at_rest(elapsed=0) == (1.0, True, False)
    assert step_at_rest(elapsed=999) == (1.0, False, True)
    np.testing.assert_array_equal(env._model.jnt_stiffness, other._model.jnt_stiffness)
    # The suite has no time limit for it; here it is that of the other tasks.
    other.reset()
    pushes = [other.step(np.ones(other.action_space.shape))[2:4] for _ in range(1000)]
    assert pushes[998:] == [(False, False), (False, True)]


def test_cartpole_balance_by_hand():
    env = envs.make("dmc/cartpole-balance", seed=0)
    env.reset()
    env._data.qpos[:] = 0.5, np.pi / 3
    env._data.qvel[:] = -1.0, 2.0
    mujoco.mj_step1(env._model, env._data)
    (x, cosine, sine, v, omega), reward, *_ = env.step(np.array([0.6]))
    # One step of 0.01 s later.
    np.testing.assert_allclose((x, v), (0.49, -1.0), atol=0.1)
    np.testing.assert_allclose((cosine, sine, omega), (0.48, 0.87, 2.1), atol=0.05)
    upright, centred = (1.0 + cosine) / 2.0, (1.0 + 0.1 ** (x / 2.0) ** 2) / 2.0
    calm, slow = (4.0 + 1.0 - 0.6**2) / 5.0, (1.0 + 0.1 ** (omega / 5.0) ** 2) / 2.0
    assert reward == pytest.approx(upright * centred * calm * slow)


def test_action_repeat_sums_rewards():
    once, thrice = envs.make("dmc/walker-run", seed=2), envs.make("dmc/walker-run@action_repeat=5")
    np.testing.assert_array_equal(once.reset()[0], thrice.reset(seed=2)[0])
    for _ in range(3):
        action = once.action_space.sample()
        singly = [once.step(action) for _ in range(5)]
        obs, reward, *_ = thrice.step(action)
        np.testing.assert_array_equal(obs, singly[-1][0])
        assert reward == pytest.approx(sum(step[1] for step in singly))
    facts = envs.task("dmc/walker-run@action_repeat=5")
    assert (facts.action_repeat, facts.max_episode_steps) == (5, 200)
    envs.load_state(thrice, envs.save_state(thrice) | {"0.DmcEnv.elapsed": np.array([990])})
    assert [thrice.step(action)[3] for _ in range(2)] == [False, True]


@pytest.mark.parametrize("task_id", slow_but(SAMPLE))
def test_a_fresh_environment_continues_bit_by_bit(task_id):
    env, fresh = envs.make(task_id, seed=11), envs.make(task_id, seed=12)
    for _ in range(2):  # what a task has written into the model must not stay there
        env.reset()
        for _ in range(7):
            env.step(env.action_space.sample())
    state = envs.save_state(env)
    fresh.reset()
    envs.load_state(fresh, state)
    for key, value in envs.save_state(fresh).items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)
    for name in dir(env._model):
        value = getattr(env._model, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(fresh._model, name), value, err_msg=name)
    np.testing.assert_array_equal(walk(fresh, 30), walk(env, 30))


def test_pixels_continue_bit_by_bit_too():
    task_id = "dmc/reacher-easy@pixels+size=32"
    env = envs.make(task_id, seed=1, render_mode="rgb_array", width=32, height=32)
    fresh = envs.make(task_id, render_mode="rgb_array", width=32, height=32)
    env.reset()
    for _ in range(2):
        env.step(env.action_space.sample())
    envs.load_state(fresh, envs.save_state(env))
    np.testing.assert_array_equal(fresh.render(), env.render())  # the target is where it was
    np.testing.assert_array_equal(walk(fresh, 4), walk(env, 4))
    env.close()
    fresh.close()


@pytest.mark.parametrize("quality", ["", pytest.param("+shadows", marks=pytest.mark.extended)])
@pytest.mark.parametrize(
    ("task_id", "camera"), [("dmc/cheetah-run", 0), ("dmc/quadruped-escape", 2)]
)
def test_images_are_dm_controls(task_id, camera, quality):
    env = envs.make(f"{task_id}@pixels{quality}", seed=0)
    for _ in range(2):
        env.reset()
    obs = env.step(env.action_space.sample())[0]
    facts = envs.task(task_id).kwargs
    other = suite.load(facts["domain"], facts["task"])
    if not quality:
        other.physics.model.vis.quality.offsamples = 0
    base = env.unwrapped
    other.physics.model.hfield_data[:] = base._model.hfield_data
    for name in ("qpos", "qvel", "act"):
        getattr(other.physics.data, name)[:] = getattr(base._data, name)
    mujoco.mj_step1(other.physics.model.ptr, other.physics.data.ptr)
    flags = {} if quality else {"shadow": False, "reflection": False}
    image = other.physics.render(84, 84, camera_id=camera, render_flag_overrides=flags)
    np.testing.assert_array_equal(obs[-3:], image.transpose(2, 0, 1))
    assert envs.task(f"{task_id}@pixels{quality}").facts["camera"] == camera
    env.close()
    other.close()


def test_pixels_are_a_stack_of_frames_with_two_control_steps_between():
    env, states = envs.make("dmc/cup-catch@pixels", seed=3), envs.make("dmc/cup-catch", seed=3)
    obs, _ = env.reset()
    states.reset()
    assert (obs.shape, obs.dtype, env.observation_space.shape) == ((9, 84, 84), np.uint8, obs.shape)
    np.testing.assert_array_equal(obs[:6], np.concatenate([obs[6:], obs[6:]]))
    action = np.array([0.3, -0.9])
    later, reward, *_ = env.step(action)
    np.testing.assert_array_equal(later[:6], obs[3:])
    assert not np.array_equal(later[6:], obs[6:])
    assert reward == sum(states.step(action)[1] for _ in range(2))
    np.testing.assert_array_equal(env.unwrapped._data.qpos, states._data.qpos)
    env.close()


def test_terrain_is_drawn_anew_at_each_reset():
    env = envs.make("dmc/quadruped-escape@pixels+frames=1+size=48", seed=4)
    env.reset()
    second = env.reset()[0]
    heights = env.unwrapped._model.hfield_data.copy()
    fresh = envs.make("dmc/quadruped-escape@pixels+frames=1+size=48")
    envs.load_state(fresh, envs.save_state(env))
    np.testing.assert_array_equal(fresh.unwrapped._model.hfield_data, heights)
    np.testing.assert_array_equal(fresh.unwrapped._observe(), second)
    env.close()
    fresh.close()


def test_states_need_no_gl_library_and_pixels_say_what_they_need():
    code = """
import envs
env = envs.make("dmc/quadruped-escape", seed=0)
env.reset()
env.step(env.action_space.sample())
try:
    envs.make("dmc/quadruped-escape@pixels").reset()
except envs.parts.pixels.NoRendering as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MUJOCO_GL": "off"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith("cannot draw")
    assert ran.stdout.count("\n") == 1


def test_settings():
    facts = envs.task("dmc/cheetah-run@action_repeat=4+pixels+size=64")
    assert facts.id == "dmc/cheetah-run@pixels+size=64+action_repeat=4"
    assert (facts.obs_shape, facts.observation_kind) == ((9, 64, 64), "pixels")
    assert facts.max_episode_steps == 250
    assert envs.task("dmc/cheetah-run@pixels").action_repeat == 2
    assert envs.task("dmc/cheetah-run@pixels+action_repeat=1").action_repeat == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("dmc/cheetah-run@size=64", "settings of pixels"),
        ("dmc/cheetah-run@pixels+frames=0", "from 1 to 16, not 0"),
        ("dmc/cheetah-run@action_repeat=3", "divides 1000, which 3 does not"),
        ("dmc/cheetah-run@action_repeat=0", "divides 1000, which 0 does not"),
        ("dmc/ball_in_cup-catch", "did you mean 'dmc/cup-catch'"),
        ("dmc/finger-turn_hard", "did you mean 'dmc/finger-turn-hard'"),
    ],
)
def test_mistakes_are_one_line(wrong, text):
    with pytest.raises(envs.UnknownTask, match=text) as caught:
        envs.make(wrong)
    assert "\n" not in str(caught.value)


def test_options():
    env = envs.make("dmc/fish-swim", seed=0, render_mode="rgb_array", width=64, height=48)
    env.reset()
    other = envs.make(
        "dmc/fish-swim", seed=0, render_mode="rgb_array", camera_id=1, width=64, height=48
    )
    other.reset()
    assert env.render().shape == (48, 64, 3)
    assert not np.array_equal(env.render(), other.render())
    assert envs.make("dmc/fish-swim").render() is None
    for options, text in [({"render_mode": "human"}, "'human'"), ({"camera_id": 9}, "camera 9")]:
        with pytest.raises(ValueError, match=text):
            envs.make("dmc/fish-swim", **options)
    env.close()
    other.close()
