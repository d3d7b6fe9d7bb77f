"""Arguments that `train` and `sweep` share."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import algos
from algos.config import describe_options
from runners.cli import Parser, UserError
from runners.protocols import PROTOCOLS, Protocol

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


def check_common(arguments: argparse.Namespace) -> None:
    """Complain about values of the common arguments that no other check reads."""
    if not arguments.checkpoint_seconds >= 0:  # NaN as well
        raise UserError(f"--checkpoint-seconds {arguments.checkpoint_seconds:g}: must be 0 or more")


def experiment_path(arguments: argparse.Namespace, rules: Protocol) -> Path:
    """Where the experiment lives: a bare name is a folder of `results/`."""
    text = arguments.experiment
    if text is None:
        text = rules.name if arguments.steps is None else f"{rules.name}-{rules.steps}"
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


def options_text(names: list[str]) -> str:
    """All options of some algorithms, as the end of `--help`."""
    lines = []
    for name in names:
        agent = algos.load(name)
        lines.append(f"options of {name} ({agent.title}), presets: {', '.join(agent.presets)}")
        for option, default, doc in describe_options(agent.Config):
            lines.append(f"  {option}={default}: {doc}")
        lines.append("")
    return "\n".join(lines)
