"""The bandit with three peaks."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.toy import PEAKS

TASK = "toy/bandit"


def paid(action):
    env = envs.make(TASK)
    env.reset()
    return env.step(np.array(action))[1]


def test_the_reward_is_the_landscape():
    """By hand: at its centre a bump has its height, one width beside it e^-1/2 of that."""
    for x, y, top, width in PEAKS:
        assert paid([x, y]) == pytest.approx(top)
        assert paid([x, y - width]) == pytest.approx(top * np.exp(-0.5))
    assert paid([1.0, -1.0]) < 0.05
    assert paid([-5.0, -0.3]) == paid([-1.0, -0.3])


def test_the_peaks_are_apart_and_the_highest_is_the_last():
    assert [top for *_, top, _ in PEAKS] == sorted({top for *_, top, _ in PEAKS})
    # Between two peaks the landscape falls to less than a third of the lower one.
    for i, (x, y, top, _) in enumerate(PEAKS):
        for other_x, other_y, other_top, _ in PEAKS[:i]:
            line = np.linspace((x, y), (other_x, other_y), 50)
            assert min(paid(point) for point in line) < min(top, other_top) / 3


def test_an_episode_is_one_action():
    env = envs.make(TASK, seed=0)
    first, info = env.reset()
    obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
    assert (terminated, truncated, info) == (True, False, {})
    np.testing.assert_array_equal(obs, first)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(2))
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(3,\), not \(2,\)"):
        env.step(np.zeros(3))


def test_the_facts_are_those_of_the_environment():
    env, facts = envs.make(TASK), envs.task(TASK)
    check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
    assert env.observation_space.shape == facts.obs_shape
    assert env.action_space.shape == (facts.action_dim,)
    assert (facts.max_episode_steps, facts.terminates) == (1, True)
    assert facts.facts["peaks"] == PEAKS


def test_an_open_episode_is_saved():
    env, other = envs.make(TASK, seed=1), envs.make(TASK, seed=2)
    env.reset()
    envs.load_state(other, envs.save_state(env))
    assert other.action_space.sample().tolist() == env.action_space.sample().tolist()
    other.step(np.zeros(2))
    envs.load_state(other, envs.save_state(envs.make(TASK)))
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step(np.zeros(2))
