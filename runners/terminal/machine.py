"""What this machine can take: runs are refused before they begin, not in the middle."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import envs
from algos.parts.vision import FRAME
from envs.parts.pixels import gl_problem
from runners.cells.cell import Cell
from runners.cells.errors import UserError

FREE_BYTES = 200 << 20


def check_disk(experiment: Path, needed: int = 0) -> None:
    """Refuse to start where the disk cannot hold the checkpoints.

    Args:
        experiment: the folder, which need not exist yet.
        needed: bytes beyond the margin.
    """
    folder = experiment.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES + needed:
        raise UserError(
            f"--experiment {experiment}: {free >> 20} MB free on its disk, "
            f"{(FREE_BYTES + needed) >> 20} MB needed"
        )


def check_drawing(cells: Sequence[Cell]) -> None:
    """Refuse to start runs from pixels where nothing can be drawn."""
    for cell in cells:
        problem = gl_problem()
        if problem and envs.task(cell.task).observation_kind == "pixels":
            raise UserError(f"--tasks {cell.task}: {problem}")


def frame_bytes(cell: Cell) -> int:
    """Disk that the frames of a run need; 0 where observations are vectors."""
    task = envs.task(cell.task)
    if task.observation_kind != "pixels":
        return 0
    steps = cell.protocol.steps // task.action_repeat
    frames = steps + steps // task.max_episode_steps + 1
    kept = min(frames, int(cell.config.get("replay_capacity", frames)))
    return kept * int(np.prod(task.obs_shape[1:])) * FRAME
