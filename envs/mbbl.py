"""Facts of the MBBL tasks: 18 of the paper's table and 8 noisy variants.

Names are the paper's without spaces. One differs: the paper has both "Swimmer-v0" and "Swimmer",
and a gymnasium id is always the task id with `-v0` appended, so "Swimmer-v0" would name two things.
Here the paper's Swimmer-v0 (`gym_swimmer`, gym's own swimmer) is `mbbl/SwimmerV0`, in gymnasium
`mbbl/SwimmerV0-v0`; the paper's Swimmer (`gym_fswimmer`, with the tip speed) is `mbbl/Swimmer`, in
gymnasium `mbbl/Swimmer-v0`.

`-ET` tasks end when the robot falls. `-O01` and `-O001` add U(±0.1) and U(±0.01) to every
observation component, `-A01` and `-A003` add U(±0.1) and U(±0.03) to every action component.
"""

from __future__ import annotations

from typing import Any

from envs.parts.registry import Task

SOURCE = "MBBL, Wang et al. 2019 (arXiv 1907.02057), repository WilsonWangTHU/mbbl bb88a01"

_CLASSIC = "envs.simulators.mbbl_classic:ClassicEnv"
_NOISY_PENDULUM = "envs.simulators.mbbl_classic:NoisyPendulumEnv"
_MUJOCO = "envs.simulators.mbbl_mujoco:MujocoTaskEnv"
_REACHER = "envs.simulators.mbbl_mujoco:ReacherEnv"
_SWIMMER = "envs.simulators.mbbl_mujoco:SwimmerEnv"

_NOISES = {"01": 0.1, "001": 0.01, "003": 0.03}


def _task(
    name: str,
    obs_dim: int,
    action_dim: int,
    max_steps: int,
    entry_point: str = _MUJOCO,
    options: tuple[str, ...] = (),
    **kwargs: Any,
) -> Task:
    cameras = ("camera_id", "camera_name") if "mujoco" in entry_point else ()
    return Task(
        id=f"mbbl/{name}",
        obs_shape=(obs_dim,),
        action_dim=action_dim,
        max_episode_steps=max_steps,
        terminates=name.endswith("-ET"),
        source=SOURCE,
        gymnasium_id=f"mbbl/{name}-v0",
        entry_point=entry_point,
        kwargs=kwargs or {"physics": name},
        options=("render_mode", "width", "height", *cameras, *options),
    )


def _noisy_observation(digits: str) -> tuple[Task, ...]:
    """Return the three tasks with noise of one width on their observations."""
    noise, reading = _NOISES[digits], ("noisy_reward_on",)
    return (
        _task(f"HalfCheetah-O{digits}", 17, 6, 1000, _MUJOCO, reading,
              physics="HalfCheetah", obs_noise=noise),
        _task(f"Pendulum-O{digits}", 3, 1, 201, _NOISY_PENDULUM, (*reading, "sine_cost"),
              obs_noise=noise),
        _task(f"CartPole-O{digits}", 4, 1, 201, _CLASSIC, reading,
              physics="CartPole", obs_noise=noise),
    )  # fmt: skip


def _noisy_action(digits: str) -> Task:
    noise = _NOISES[digits]
    return _task(f"HalfCheetah-A{digits}", 17, 6, 1000, physics="HalfCheetah", action_noise=noise)


TASKS: tuple[Task, ...] = (
    _task("Pendulum", 3, 1, 201, _CLASSIC),
    _task("InvertedPendulum", 4, 1, 101),
    _task("Acrobot", 6, 1, 201, _CLASSIC),
    _task("CartPole", 4, 1, 201, _CLASSIC),
    _task("MountainCar", 2, 1, 201, _CLASSIC),
    _task("Reacher", 11, 2, 50, _REACHER),
    _task("HalfCheetah", 17, 6, 1000),
    _task("SwimmerV0", 8, 2, 1000),
    _task("Swimmer", 9, 2, 1000, _SWIMMER),
    _task("Ant", 27, 8, 1000),
    _task("Ant-ET", 27, 8, 1000),
    _task("Walker2D", 17, 6, 1000),
    _task("Walker2D-ET", 17, 6, 1000),
    _task("Hopper", 11, 3, 1000),
    _task("Hopper-ET", 11, 3, 1000),
    _task("SlimHumanoid", 45, 17, 1000),
    _task("SlimHumanoid-ET", 45, 17, 1000),
    _task("Humanoid-ET", 376, 17, 1000),
    *_noisy_observation("01"),
    *_noisy_observation("001"),
    _noisy_action("01"),
    _noisy_action("003"),
)
