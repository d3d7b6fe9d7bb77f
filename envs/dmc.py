"""Facts of the DeepMind Control Suite, all 51 tasks, from states and from pixels.

`dmc/cheetah-run` is dm_control's task `run` of the domain `cheetah`. Names are those of the papers'
tables: hyphens for underscores, and `cup` for `ball_in_cup`.

`dmc/cheetah-run` is observed by its state, `dmc/cheetah-run@pixels` by the last three images of a
camera. Settings of pixels are `size`, `frames` and `shadows`; both have an `action_repeat`, by
default 1 for states and 2 for pixels. DrQ-v2's own images are those with `pixels+shadows`.
An episode is 1000 control steps, whatever the action repeat.
"""

from __future__ import annotations

from functools import partial

from envs.parts.pixels import check_frames, check_size
from envs.parts.registry import Task

SOURCE = (
    "DeepMind Control Suite, Tunyasuvunakool et al. 2020 (arXiv 2006.12983), dm_control 1.0.28; "
    "pixels as in DrQ-v2, Yarats et al. 2021 (arXiv 2107.09645)"
)

EPISODE_ENV_STEPS = 1000

_PAPER_NAMES = {"ball_in_cup": "cup"}
# DrQ-v2's choice: the model's first camera, but for the quadruped the one that follows it.
_CAMERAS = {"quadruped": 2}


def _task(
    domain: str,
    name: str,
    obs_dim: int,
    action_dim: int,
    *,
    pixels: bool = False,
    size: int = 84,
    frames: int = 3,
    shadows: bool = False,
    action_repeat: int | None = None,
) -> Task:
    """One task with settings.

    Args:
        domain: dm_control's name of the domain.
        name: dm_control's name of the task.
        obs_dim: components of a state.
        action_dim: components of an action.
        pixels: observe images and not the state.
        size: height and width of an image in pixels.
        frames: images in an observation.
        shadows: draw shadows and reflections, and smooth edges: about 15 times slower on a CPU.
        action_repeat: simulator control steps for each agent step; None is 2 for pixels, else 1.

    Raises:
        ValueError: if a value is out of range, or a setting of pixels is given without them.
    """
    if not pixels and (size, frames, shadows) != (84, 3, False):
        raise ValueError("size, frames and shadows are settings of pixels: begin with @pixels+")
    check_frames(frames)
    repeat = (2 if pixels else 1) if action_repeat is None else action_repeat
    if repeat < 1 or EPISODE_ENV_STEPS % repeat:
        raise ValueError(f"action_repeat divides {EPISODE_ENV_STEPS}, which {repeat} does not")
    camera = _CAMERAS.get(domain, 0)
    image = {"size": check_size(size), "frames": frames, "shadows": shadows}
    task_id = f"dmc/{_PAPER_NAMES.get(domain, domain)}-{name}".replace("_", "-")
    return Task(
        id=task_id,
        obs_shape=(3 * frames, size, size) if pixels else (obs_dim,),
        action_dim=action_dim,
        max_episode_steps=EPISODE_ENV_STEPS // repeat,
        terminates=domain == "lqr",
        source=SOURCE,
        gymnasium_id=f"{task_id}-v0",
        entry_point="envs.simulators.dmc:make_env",
        kwargs={
            **{"domain": domain, "task": name, "action_repeat": repeat, "camera": camera},
            **{"pixels": pixels, **image},
        },
        options=("render_mode", "width", "height", "camera_id"),
        observation_kind="pixels" if pixels else "state",
        action_repeat=repeat,
        facts={**image, "camera": camera} if pixels else {},
        vary=partial(_task, domain, name, obs_dim, action_dim),
    )


# Domain, components of an observation and of an action, tasks.
_FACTS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("acrobot", 6, 1, ("swingup", "swingup_sparse")),
    ("ball_in_cup", 8, 2, ("catch",)),
    ("cartpole", 5, 1, ("balance", "balance_sparse", "swingup", "swingup_sparse")),
    ("cartpole", 8, 1, ("two_poles",)),
    ("cartpole", 11, 1, ("three_poles",)),
    ("cheetah", 17, 6, ("run",)),
    ("dog", 223, 38, ("stand", "walk", "trot", "run")),
    ("dog", 232, 38, ("fetch",)),
    ("finger", 9, 2, ("spin",)),
    ("finger", 12, 2, ("turn_easy", "turn_hard")),
    ("fish", 21, 5, ("upright",)),
    ("fish", 24, 5, ("swim",)),
    ("hopper", 15, 4, ("stand", "hop")),
    ("humanoid", 67, 21, ("stand", "walk", "run")),
    ("humanoid", 55, 21, ("run_pure_state",)),
    ("humanoid_CMU", 137, 56, ("stand", "walk", "run")),
    ("lqr", 4, 1, ("lqr_2_1",)),
    ("lqr", 12, 2, ("lqr_6_2",)),
    ("manipulator", 44, 5, ("bring_ball", "bring_peg", "insert_ball", "insert_peg")),
    ("pendulum", 3, 1, ("swingup",)),
    ("point_mass", 4, 2, ("easy", "hard")),
    ("quadruped", 78, 12, ("walk", "run")),
    ("quadruped", 101, 12, ("escape",)),
    ("quadruped", 90, 12, ("fetch",)),
    ("reacher", 6, 2, ("easy", "hard")),
    ("stacker", 49, 5, ("stack_2",)),
    ("stacker", 63, 5, ("stack_4",)),
    ("swimmer", 25, 5, ("swimmer6",)),
    ("swimmer", 61, 14, ("swimmer15",)),
    ("walker", 24, 6, ("stand", "walk", "run")),
)

TASKS: tuple[Task, ...] = tuple(
    _task(domain, name, obs_dim, action_dim)
    for domain, obs_dim, action_dim, names in _FACTS
    for name in names
)
