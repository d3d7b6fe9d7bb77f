import subprocess
import sys

import gymnasium
import numpy as np
import pytest

import envs
from envs.parts.registry import register

MBBL = [
    "Pendulum",
    "InvertedPendulum",
    "Acrobot",
    "CartPole",
    "MountainCar",
    "Reacher",
    "HalfCheetah",
    "SwimmerV0",
    "Swimmer",
    "Ant",
    "Ant-ET",
    "Walker2D",
    "Walker2D-ET",
    "Hopper",
    "Hopper-ET",
    "SlimHumanoid",
    "SlimHumanoid-ET",
    "Humanoid-ET",
    "HalfCheetah-O01",
    "HalfCheetah-O001",
    "HalfCheetah-A01",
    "HalfCheetah-A003",
    "Pendulum-O01",
    "Pendulum-O001",
    "CartPole-O01",
    "CartPole-O001",
]
V4 = ["Ant-v4", "HalfCheetah-v4", "Hopper-v4", "Humanoid-v4", "Walker2d-v4"]
GYM = [*V4, *(name.replace("-v4", "-v5") for name in V4), "Swimmer-v5"]


def test_list_tasks_names_every_task():
    assert set(envs.list_tasks("mbbl")) == {f"mbbl/{name}" for name in MBBL}
    assert set(envs.list_tasks("gym")) == {f"gym/{name}" for name in GYM}
    assert {*envs.list_tasks("mbbl"), *envs.list_tasks("gym")} <= set(envs.list_tasks())
    assert len(envs.list_tasks()) == len(set(envs.list_tasks()))


def test_list_tasks_of_an_unknown_suite():
    with pytest.raises(envs.UnknownTask, match=r"'mbl' \(did you mean 'mbbl'\?\); suites: .*gym"):
        envs.list_tasks("mbl")


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("mbbl/HalfCheeta", "mbbl/HalfCheetah"),
        ("mbbl/halfcheetah", "mbbl/HalfCheetah"),
        ("HalfCheetah", "mbbl/HalfCheetah"),
        ("mbbl/Swimmer-v0", "mbbl/SwimmerV0"),
        ("gym/Ant-v1", "gym/Ant-v5"),
    ],
)
def test_unknown_task_is_one_line_with_the_nearest_name(wrong, nearest):
    with pytest.raises(envs.UnknownTask) as caught:
        envs.make(wrong)
    text = str(caught.value)
    assert "\n" not in text
    assert repr(wrong) in text
    assert f"did you mean {nearest!r}?" in text


def test_unknown_task_lists_its_suite_or_the_suites():
    with pytest.raises(envs.UnknownTask, match="tasks of gym: Ant-v4, Ant-v5, HalfCheetah-v4"):
        envs.task("gym/Nothing")
    with pytest.raises(envs.UnknownTask, match=r"suites: .*gym, mbbl"):
        envs.task("nowhere/Nothing")
    assert issubclass(envs.UnknownTask, ValueError)


def test_unknown_option_is_one_line():
    with pytest.raises(
        ValueError, match=r"'render_mod' \(did you mean 'render_mode'\?\)"
    ) as caught:
        envs.make("mbbl/HalfCheetah", render_mod="rgb_array")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="mbbl/HalfCheetah has no option 'noisy_reward_on'"):
        envs.make("mbbl/HalfCheetah", noisy_reward_on="clean")


@pytest.mark.parametrize(
    ("task_id", "option"),
    [
        ("mbbl/CartPole-O01", {"noisy_reward_on": "both"}),
        ("mbbl/Pendulum-O01", {"sine_cost": "none"}),
        ("mbbl/Hopper", {"render_mode": "ansi"}),
    ],
)
def test_bad_option_value(task_id, option):
    with pytest.raises(ValueError, match=repr(next(iter(option.values())))):
        envs.make(task_id, **option)


def test_a_task_id_is_taken_once():
    with pytest.raises(ValueError, match="already registered"):
        register(envs.task("mbbl/Ant"))


def test_importing_envs_does_not_import_mujoco():
    code = "import sys, envs; sys.exit('mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("task_id", envs.list_tasks("mbbl") + envs.list_tasks("gym"))
def test_facts_agree_with_the_environment(task_id):
    env, facts = envs.make(task_id), envs.task(task_id)
    assert env.observation_space.shape == facts.obs_shape
    assert env.action_space.shape == (facts.action_dim,)
    assert facts.suite == task_id.split("/")[0]
    assert facts.observation_kind == "state"
    assert facts.action_repeat == 1
    env.close()


@pytest.mark.parametrize("task_id", envs.list_tasks("mbbl") + envs.list_tasks("gym"))
def test_gymnasium_makes_the_same_environment(task_id):
    ours = envs.make(task_id, seed=3)
    theirs = gymnasium.make(envs.task(task_id).gymnasium_id, disable_env_checker=True)
    assert type(ours.unwrapped) is type(theirs.unwrapped)
    np.testing.assert_array_equal(ours.reset()[0], theirs.reset(seed=3)[0])


def test_terminates_only_where_it_says():
    ends = {task_id for task_id in envs.list_tasks() if envs.task(task_id).terminates}
    assert {name for name in ends if name.startswith("mbbl/")} == {
        f"mbbl/{name}-ET" for name in ("Ant", "Walker2D", "Hopper", "SlimHumanoid", "Humanoid")
    }


def test_make_adds_no_checker_and_no_second_time_limit():
    assert not isinstance(envs.make("mbbl/HalfCheetah"), gymnasium.Wrapper)
    assert "PassiveEnvChecker" not in str(envs.make("gym/Ant-v5"))


@pytest.mark.filterwarnings("ignore:.*out of date")
@pytest.mark.parametrize("name", GYM)
def test_gym_suite_is_gymnasiums_own(name):
    ours, theirs = envs.make(f"gym/{name}", seed=1), gymnasium.make(name)
    assert ours.observation_space.shape == envs.task(f"gym/{name}").obs_shape
    ours.reset()
    theirs.reset(seed=1)
    action = np.full(theirs.action_space.shape, 0.3)
    np.testing.assert_array_equal(ours.step(action)[0], theirs.step(action)[0])
    assert ours.step(action)[1:3] == theirs.step(action)[1:3]


def test_gym_time_limit():
    env = envs.make("gym/HalfCheetah-v5", seed=0)
    env.reset()
    ends = [env.step(np.zeros(6))[2:4] for _ in range(1000)]
    assert ends[998:] == [(False, False), (False, True)]
