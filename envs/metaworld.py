"""Facts of the Meta-World tasks from pixels: 50 tasks, the eight of the Diff-SR figure first.

An agent sees the last three images of one camera and nothing else. Names are Meta-World's without
the version. The settings are those of the code of mu-LV-Rep, DrQ-v2 and Diff-SR in the figure;
masked world models and DreamerV2 in the same figure saw `metaworld/NAME@size=64+frames=1`.
"""

from __future__ import annotations

from functools import partial

from envs.parts.pixels import check_frames, check_size
from envs.parts.registry import Task

SOURCE = (
    "Meta-World 3.1.1 (arXiv 1910.10897, 2505.11289) from pixels, as in Seo et al. 2022 "
    "(arXiv 2206.14244) and Diff-SR (arXiv 2406.16121)"
)

EPISODE_ENV_STEPS = 500
CAMERA = "corner4"
REWARD = "v2"

FIGURE = (
    *("bin-picking", "box-close", "button-press", "door-open", "drawer-close", "hammer"),
    *("stick-push", "sweep"),
)

OTHERS = (
    *("assembly", "basketball", "button-press-topdown", "button-press-topdown-wall"),
    *("button-press-wall", "coffee-button", "coffee-pull", "coffee-push", "dial-turn"),
    *("disassemble", "door-close", "door-lock", "door-unlock", "drawer-open", "faucet-close"),
    *("faucet-open", "hand-insert", "handle-press", "handle-press-side", "handle-pull"),
    *("handle-pull-side", "lever-pull", "peg-insert-side", "peg-unplug-side", "pick-out-of-hole"),
    *("pick-place", "pick-place-wall", "plate-slide", "plate-slide-back", "plate-slide-back-side"),
    *("plate-slide-side", "push", "push-back", "push-wall", "reach", "reach-wall", "shelf-place"),
    *("soccer", "stick-pull", "sweep-into", "window-close", "window-open"),
)

# Where the goal differs between episodes and only its coloured marker shows it. (In stick-push, the
# one of the figure's eight, it moves by 5 cm.) In all others it is fixed or a part of the scene.
MARKED = (
    *("stick-push", "coffee-pull", "hand-insert", "pick-out-of-hole", "pick-place"),
    *("pick-place-wall", "plate-slide-back", "plate-slide-back-side", "plate-slide-side", "push"),
    *("push-back", "push-wall", "reach", "reach-wall", "stick-pull"),
)


def _task(
    name: str,
    *,
    size: int = 84,
    frames: int = 3,
    action_repeat: int = 2,
    shadows: bool = False,
) -> Task:
    """One task with settings.

    Args:
        name: Meta-World's name without the version.
        size: height and width of an observation in pixels.
        frames: images in an observation.
        action_repeat: simulator control steps for each agent step.
        shadows: draw shadows and reflections, and smooth edges: some 17 times slower on a CPU.

    Raises:
        ValueError: if a value is out of range.
    """
    check_frames(frames)
    if action_repeat < 1 or EPISODE_ENV_STEPS % action_repeat:
        raise ValueError(
            f"action_repeat divides {EPISODE_ENV_STEPS}, which {action_repeat} does not"
        )
    image = {"size": check_size(size), "frames": frames, "shadows": shadows}
    return Task(
        id=f"metaworld/{name}",
        obs_shape=(3 * frames, size, size),
        action_dim=4,
        max_episode_steps=EPISODE_ENV_STEPS // action_repeat,
        terminates=False,
        source=SOURCE,
        gymnasium_id=f"metaworld/{name}-v0",
        entry_point="envs.simulators.metaworld:make_env",
        kwargs={"task": name, "action_repeat": action_repeat, **image},
        options=("render_mode", "width", "height", "camera_name"),
        observation_kind="pixels",
        action_repeat=action_repeat,
        reports_success=True,
        facts={
            **image,
            "camera": CAMERA,
            "bottom_row_first": True,
            "reward": REWARD,
            "goal_shown_by": "marker" if name in MARKED else "scene",
        },
        vary=partial(_task, name),
    )


TASKS: tuple[Task, ...] = tuple(_task(name) for name in (*FIGURE, *OTHERS))
