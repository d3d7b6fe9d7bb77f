"""Facts of gymnasium's own MuJoCo tasks, version 5, as the `gym` suite.

The environments are gymnasium's classes unchanged, with its time limit. Published numbers of the
diffusion-policy papers are on v3; only HalfCheetah, and nearly Hopper, can be set beside v5.
"""

from __future__ import annotations

from envs.registry import Task

SOURCE = "Gymnasium, Towers et al. 2024 (arXiv 2407.17032), MuJoCo v5 environments"


def _task(name: str, obs_dim: int, action_dim: int, *, terminates: bool) -> Task:
    module = name.lower() if name != "HalfCheetah" else "half_cheetah"
    return Task(
        id=f"gym/{name}-v5",
        obs_shape=(obs_dim,),
        action_dim=action_dim,
        max_episode_steps=1000,
        terminates=terminates,
        source=SOURCE,
        gymnasium_id=f"gym/{name}-v5",
        entry_point=f"gymnasium.envs.mujoco.{module}_v5:{name}Env",
        options=("render_mode", "width", "height", "camera_id", "camera_name"),
        wrapped_limit=True,
    )


TASKS: tuple[Task, ...] = (
    _task("Ant", 105, 8, terminates=True),
    _task("HalfCheetah", 17, 6, terminates=False),
    _task("Hopper", 11, 3, terminates=True),
    _task("Humanoid", 348, 17, terminates=True),
    _task("Swimmer", 8, 2, terminates=False),
    _task("Walker2d", 17, 6, terminates=True),
)
