"""Facts of gymnasium's own MuJoCo tasks, versions 4 and 5, as the `gym` suite.

The environments are gymnasium's classes unchanged, with its time limit. Version 4 has the rewards
and models of v2 and v3, which most published numbers are of. Version 5 gives the healthy reward of
Hopper and Walker2d only while healthy, another friction to Walker2d's right foot, and contact
forces to the observations and rewards of Ant and Humanoid; HalfCheetah is the same in all.
"""

from __future__ import annotations

from envs.parts.registry import Task

SOURCE = "Gymnasium, Towers et al. 2024 (arXiv 2407.17032), MuJoCo v{version} environments"


def _task(name: str, version: int, obs_dim: int, action_dim: int) -> Task:
    module = name.lower() if name != "HalfCheetah" else "half_cheetah"
    return Task(
        id=f"gym/{name}-v{version}",
        obs_shape=(obs_dim,),
        action_dim=action_dim,
        max_episode_steps=1000,
        terminates=name not in ("HalfCheetah", "Swimmer"),
        source=SOURCE.format(version=version),
        gymnasium_id=f"gym/{name}-v{version}",
        entry_point=f"gymnasium.envs.mujoco.{module}_v{version}:{name}Env",
        options=("render_mode", "width", "height", "camera_id", "camera_name"),
        wrapped_limit=True,
    )


TASKS: tuple[Task, ...] = (
    _task("Ant", 4, 27, 8),
    _task("Ant", 5, 105, 8),
    _task("HalfCheetah", 4, 17, 6),
    _task("HalfCheetah", 5, 17, 6),
    _task("Hopper", 4, 11, 3),
    _task("Hopper", 5, 11, 3),
    _task("Humanoid", 4, 376, 17),
    _task("Humanoid", 5, 348, 17),
    _task("Swimmer", 5, 8, 2),
    _task("Walker2d", 4, 17, 6),
    _task("Walker2d", 5, 17, 6),
)
