import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation, RescaleAction

import envs

TASKS = envs.list_tasks("mbbl") + envs.list_tasks("gym")


def run(env, steps):
    """Random steps and a reset, everything that comes out as one vector."""
    seen = []
    for _ in range(steps):
        action = env.action_space.sample()
        obs, reward, terminated, truncated, _ = env.step(action)
        seen += [action, obs, [reward, terminated, truncated]]
    seen += [env.reset()[0], env.step(env.action_space.sample())[0]]
    return np.concatenate(seen)


def in_mid_episode(task_id, **options):
    env = envs.make(task_id, seed=11, **options)
    env.reset()
    for _ in range(7):
        env.step(env.action_space.sample())
    return env


@pytest.mark.parametrize("task_id", TASKS)
def test_a_fresh_environment_continues_bit_by_bit(task_id):
    env = in_mid_episode(task_id)
    state = envs.save_state(env)
    fresh = envs.make(task_id)
    envs.load_state(fresh, state)
    np.testing.assert_array_equal(run(fresh, 30), run(env, 30))


@pytest.mark.parametrize("task_id", TASKS)
def test_saving_changes_nothing_and_can_be_undone(task_id):
    env, other = in_mid_episode(task_id), in_mid_episode(task_id)
    state = envs.save_state(env)
    first = run(env, 5)
    np.testing.assert_array_equal(first, run(other, 5))
    envs.load_state(env, state)
    np.testing.assert_array_equal(run(env, 5), first)


@pytest.mark.parametrize("task_id", TASKS)
def test_a_state_is_flat_arrays_and_survives_itself(task_id):
    env = in_mid_episode(task_id)
    state = envs.save_state(env)
    for key, value in state.items():
        assert isinstance(value, np.ndarray), key
        assert value.dtype != object, key
    assert sum(value.nbytes for value in state.values()) < 20_000
    fresh = envs.make(task_id)
    envs.load_state(fresh, state)
    for key, value in envs.save_state(fresh).items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)


@pytest.mark.parametrize("task_id", ["mbbl/Pendulum", "mbbl/Ant", "gym/Ant-v5"])
def test_an_environment_that_was_never_reset(task_id):
    fresh = envs.make(task_id, seed=1)
    again = envs.make(task_id)
    envs.load_state(again, envs.save_state(fresh))
    np.testing.assert_array_equal(again.reset()[0], fresh.reset()[0])


@pytest.mark.parametrize("task_id", ["gym/Hopper-v5", "mbbl/HalfCheetah"])
def test_the_step_count_is_kept(task_id):
    env = in_mid_episode(task_id)
    fresh = envs.make(task_id)
    envs.load_state(fresh, envs.save_state(env))
    action = np.zeros(env.action_space.shape)
    assert [fresh.step(action)[3] for _ in range(993)] == [False] * 992 + [True]


@pytest.mark.parametrize("task_id", ["mbbl/Humanoid-ET", "gym/Humanoid-v5", "gym/Ant-v5"])
def test_another_process_continues(task_id, tmp_path):
    env = in_mid_episode(task_id)
    np.savez(tmp_path / "state.npz", **envs.save_state(env))
    code = f"""
import envs, numpy as np
env = envs.make({task_id!r})
envs.load_state(env, np.load({str(tmp_path / "state.npz")!r}))
seen = []
for _ in range(30):
    obs, reward, *_ = env.step(env.action_space.sample())
    seen.append(np.append(obs, reward))
np.save({str(tmp_path / "seen.npy")!r}, seen)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    for line in np.load(tmp_path / "seen.npy"):
        obs, reward, *_ = env.step(env.action_space.sample())
        np.testing.assert_array_equal(line, np.append(obs, reward))


def test_gymnasiums_wrappers_are_saved_too():
    def build():
        inner = gymnasium.make("mbbl/InvertedPendulum-v0", max_episode_steps=20)
        return RescaleAction(inner, np.float32(-1.0), np.float32(1.0))

    env, fresh = build(), build()
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(5):
        env.step(env.action_space.sample())
    envs.load_state(fresh, envs.save_state(env))
    np.testing.assert_array_equal(run(fresh, 15), run(env, 15))


def test_a_wrapper_with_hidden_state_is_refused():
    env = FrameStackObservation(envs.make("mbbl/Pendulum"), 3)
    with pytest.raises(TypeError, match="FrameStackObservation cannot be saved"):
        envs.save_state(env)


def test_a_wrapper_can_save_itself():
    class Summed(gymnasium.Wrapper):
        total = 0.0

        def step(self, action):
            obs, reward, *rest = self.env.step(action)
            self.total += reward
            return obs, self.total, *rest

        def snapshot(self):
            return {"total": np.array([self.total])}

        def restore(self, arrays):
            self.total = float(arrays["total"][0])

    env, fresh = (Summed(envs.make("mbbl/Pendulum", seed=0)) for _ in range(2))
    env.reset()
    env.step(np.ones(1))
    envs.load_state(fresh, envs.save_state(env))
    assert fresh.step(np.ones(1))[1] == env.step(np.ones(1))[1]


def test_a_state_of_something_else_is_refused():
    state = envs.save_state(in_mid_episode("mbbl/Hopper"))
    with pytest.raises(ValueError, match="a state of mbbl/Hopper-v0, not of mbbl/Hopper-ET-v0"):
        envs.load_state(envs.make("mbbl/Hopper-ET"), state)
    wrapped = gymnasium.make("mbbl/Hopper-v0", max_episode_steps=5, disable_env_checker=True)
    with pytest.raises(ValueError, match="layers that the environment lacks"):
        envs.load_state(wrapped, state)
    lacking = {key: value for key, value in state.items() if not key.endswith("last_obs")}
    with pytest.raises(ValueError, match=r"lacks 0\.MujocoTaskEnv\.last_obs"):
        envs.load_state(envs.make("mbbl/Hopper"), lacking)


def test_images_after_a_restore_need_no_step():
    env = in_mid_episode("mbbl/HalfCheetah")
    fresh = envs.make("mbbl/HalfCheetah")
    envs.load_state(fresh, envs.save_state(env))
    for name in ("geom_xpos", "geom_xmat", "cam_xpos", "light_xpos"):
        np.testing.assert_array_equal(
            getattr(fresh.unwrapped.data, name), getattr(env.unwrapped.data, name)
        )
