"""Facts of the partially observed tasks: MBBL robots whose velocities are hidden.

The observation is the last `history` masked observations, oldest first; at reset the first one is
repeated. Reward and end of an episode are those of the full state. A history is a setting,
`pomdp/Ant@history=4`: the paper gives its agents 3 observations and its SAC baseline 4.

The paper names the tasks without MBBL's `-ET`. They are nevertheless the ones that end when the
robot falls: the "full obs." row of its masked table (Table 3: 7223.5, 823.1, 3722.2, 4788.6,
2800.5, 162.3) is the row of HalfCheetah, Humanoid-ET, Walker-ET, Ant-ET, Hopper-ET and Pendulum in
its table of full observations (Table 1, which has 821.3 for Humanoid-ET and is equal elsewhere).

On Humanoid only the joint velocities are hidden, as the paper says: the bodies' velocities and the
forces stay. So the masked task is nearly fully observed there.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from envs import mbbl
from envs.parts.registry import Task

SOURCE = "Diff-SR, Shribak et al. 2024 (arXiv 2406.16121), appendix E; no code released"

_FULL = {task.id: task for task in mbbl.TASKS}


def _task(name: str, full: str, start: int, stop: int, *, history: int = 3) -> Task:
    """One task.

    Args:
        name: the paper's name of it.
        full: name of the MBBL task.
        start: first hidden component of the full observation.
        stop: the one after the last hidden component.
        history: masked observations to show together.
    """
    if not 1 <= history <= 100:
        raise ValueError(f"history is from 1 to 100, not {history}")
    base = _FULL[f"mbbl/{full}"]
    seen = base.obs_shape[0] - (stop - start)
    return replace(
        base,
        id=f"pomdp/{name}",
        obs_shape=(history * seen,),
        source=f"{SOURCE}; {base.source}",
        gymnasium_id=f"pomdp/{name}-v0",
        entry_point="envs.simulators.pomdp:make_masked",
        kwargs={"full": base.id, "hidden": (start, stop), "history": history},
        facts={"full": base.id, "hidden": (start, stop), "history": history},
        vary=partial(_task, name, full, start, stop),
    )


# MBBL observes [positions, velocities]; Pendulum [cos θ, sin θ, ω]; Humanoid's 23 joint velocities
# stand between its positions and the rest.
TASKS: tuple[Task, ...] = tuple(
    _task(*facts)
    for facts in (
        ("HalfCheetah", "HalfCheetah", 8, 17),
        ("Humanoid", "Humanoid-ET", 22, 45),
        ("Walker", "Walker2D-ET", 8, 17),
        ("Ant", "Ant-ET", 13, 27),
        ("Hopper", "Hopper-ET", 5, 11),
        ("Pendulum", "Pendulum", 2, 3),
    )
)
