"""Rules that hold for every registered task; one rule is one test."""

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from tests.helpers.selection import mostly_extended

DMC = [f"dmc/{name}" for name in ("cartpole-swingup", "cup-catch", "reacher-easy", "walker-run")]
STATES = [*envs.list_tasks("mbbl"), *envs.list_tasks("gym"), *envs.list_tasks("pomdp"), *DMC]
PIXELS = ["dmc/finger-turn-easy@pixels+size=32", "metaworld/hammer@size=16+frames=2"]
TASKS = [*STATES, *PIXELS]
MBBL = envs.list_tasks("mbbl")


def trajectory(env, steps=20):
    """Reset, then random steps, as one list of plain arrays."""
    seen = [env.reset()[0]]
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        seen += [obs, np.array([reward, terminated, truncated])]
    return seen


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("task_id", mostly_extended(TASKS, quick=STATES))
def test_reset_with_a_seed_repeats(task_id):
    env = envs.make(task_id)
    first = [env.reset(seed=5)[0], env.reset()[0]]
    env.action_space.seed(1)
    env.step(env.action_space.sample())
    second = [env.reset(seed=5)[0], env.reset()[0]]
    assert_same(first, second)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], env.reset(seed=6)[0])


@pytest.mark.parametrize("task_id", TASKS)
def test_the_same_seed_gives_the_same_trajectory(task_id):
    first, second = envs.make(task_id, seed=2), envs.make(task_id, seed=2)
    for _ in range(2):
        assert_same(trajectory(first), trajectory(second))


@pytest.mark.parametrize("task_id", mostly_extended(TASKS, quick=STATES))
def test_make_with_a_seed_equals_reset_with_it(task_id):
    made, reset = envs.make(task_id, seed=4), envs.make(task_id)
    assert_same([made.reset()[0], made.reset()[0]], [reset.reset(seed=4)[0], reset.reset()[0]])


@pytest.mark.parametrize("task_id", mostly_extended(TASKS, quick=STATES))
def test_different_seeds_differ(task_id):
    first, second = (trajectory(envs.make(task_id, seed=seed), 3) for seed in (0, 1))
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize("task_id", mostly_extended(TASKS, quick=STATES))
def test_observations_and_rewards_are_finite(task_id):
    assert all(np.isfinite(array).all() for array in trajectory(envs.make(task_id, seed=0)))


@pytest.mark.parametrize("task_id", TASKS)
def test_gymnasiums_own_checks(task_id):
    env = envs.make(task_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on box bounds, which gymnasium's own tasks get too
        check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)


@pytest.mark.parametrize("task_id", MBBL)
def test_time_limit_truncates_and_does_not_terminate(task_id):
    env, limit = envs.make(task_id, seed=0), envs.task(task_id).max_episode_steps
    env.reset()
    env.unwrapped._elapsed = limit - 2
    action = np.zeros(envs.task(task_id).action_dim)
    assert env.step(action)[2:4] == (False, False)
    assert env.step(action)[2:4] == (False, True)
    env.reset()
    assert env.step(action)[3] is False


@pytest.mark.parametrize("task_id", MBBL)
def test_returned_observations_are_copies(task_id):
    used, kept = envs.make(task_id, seed=0), envs.make(task_id, seed=0)
    action = np.full(envs.task(task_id).action_dim, 0.1)
    used.reset()[0].fill(np.nan)
    kept.reset()
    for _ in range(3):
        spoilt, wanted = used.step(action), kept.step(action)
        assert spoilt[1] == wanted[1]
        spoilt[0].fill(np.nan)


@pytest.mark.parametrize("task_id", ["mbbl/Pendulum", "mbbl/Ant", "pomdp/Ant", "dmc/walker-run"])
def test_misuse_is_refused(task_id):
    env = envs.make(task_id)
    with pytest.raises(Exception, match="before reset"):
        env.step(np.zeros(env.action_space.shape))
    env.reset()
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros(3))


def test_action_space_stream_is_not_the_reset_stream():
    env = envs.make("mbbl/Pendulum", seed=0)
    start = env.reset()[0][2]
    assert not np.isclose(env.action_space.sample()[0], start)
    np.testing.assert_array_equal(
        envs.make("mbbl/Ant", seed=9).action_space.sample(),
        envs.make("mbbl/Ant", seed=9).action_space.sample(),
    )
