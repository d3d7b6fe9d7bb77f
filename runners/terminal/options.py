"""Arguments that `train` and `sweep` share."""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import algos
import envs
from algos.parts.config import describe_options
from algos.parts.vision import FRAME
from envs.pixels import gl_problem
from runners.cells.cell import Cell
from runners.cells.errors import UserError
from runners.cells.protocols import PROTOCOLS, Protocol
from runners.cells.settings import RunSettings
from runners.terminal.cli import Parser

FREE_BYTES = 200 << 20


def add_common(parser: Parser) -> None:
    """Add the arguments that decide what a cell is and where it goes."""
    parser.add_argument("--protocol", default="quick", help=f"one of {', '.join(PROTOCOLS)}")
    parser.add_argument("--steps", type=int, help="environment steps instead of the protocol's")
    parser.add_argument(
        "--experiment", help="NAME (a folder of results/) or a PATH; default: the protocol's name"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=60.0, help="wall time between checkpoints"
    )
    parser.add_argument(
        "--frames",
        default="disk",
        choices=("disk", "memory"),
        help="where frames are read from once a checkpoint holds them; memory takes their size",
    )
    parser.add_argument(
        "--track",
        default="",
        metavar="SINKS",
        help="send metrics there as well: comma list of tensorboard, wandb, trackio",
    )


def settings_of(
    arguments: argparse.Namespace,
    device: str,
    track: tuple[str, ...] = (),
    step_timeout: float = math.inf,
) -> RunSettings:
    """How the runs of a command line are done.

    Args:
        arguments: those of `add_common`.
        device: the one asked for, checked.
        track: the sinks asked for, checked.
        step_timeout: seconds without a step after which a worker counts as stalled.
    """
    seconds, on_disk = arguments.checkpoint_seconds, arguments.frames == "disk"
    return RunSettings(device, seconds, on_disk, step_timeout, track)


def check_common(arguments: argparse.Namespace) -> None:
    """Complain about values of the common arguments that no other check reads."""
    if not arguments.checkpoint_seconds >= 0:  # NaN as well
        raise UserError(f"--checkpoint-seconds {arguments.checkpoint_seconds:g}: must be 0 or more")


def experiment_path(arguments: argparse.Namespace, protocol: Protocol) -> Path:
    """Where the experiment lives: a bare name is a folder of `results/`."""
    text = arguments.experiment
    if text is None:
        text = protocol.name if arguments.steps is None else f"{protocol.name}-{protocol.steps}"
    if not text.strip():
        raise UserError("--experiment '': expected a name or a path")
    return Path(text) if os.sep in text else Path("results") / text


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


def options_text(names: list[str]) -> str:
    """All options of some algorithms, as the end of `--help`."""
    lines = []
    for name in names:
        for agent in dict.fromkeys(algos.versions(algos.load(name)).values()):
            kinds = " and ".join(agent.observation_kinds)
            presets = ", ".join(agent.presets)
            lines.append(f"options of {name} ({agent.title}, {kinds}), presets: {presets}")
            for option, default, doc in describe_options(agent.Config):
                lines.append(f"  {option}={default}: {doc}")
            lines.append("")
    return "\n".join(lines)
