"""The launchers by name, with their options on the command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from runners.cells.cell import Run
from runners.cells.errors import UserError, positive
from runners.cells.settings import RunSettings
from runners.terminal.cli import Parser
from runners.terminal.progress import View

LAUNCHERS = ("local", "ray", "slurm")
# Which launchers an option is for; those that are not named here are for all.
ONLY = {
    "workers": ("local", "slurm"),
    "address": ("ray",),
    "partition": ("slurm",),
    "time": ("slurm",),
    "slurm": ("slurm",),
    "cpus_per_run": ("ray", "slurm"),
    "gpus_per_run": ("ray", "slurm"),
    "memory_per_run": ("ray", "slurm"),
}
SLURM_MINUTES = 240


class Launcher(Protocol):
    """What a sweep asks of a launcher.

    Attributes:
        stopped: what to tell a user who has stopped the sweep.
    """

    stopped: str

    def run(self, runs: Sequence[Run], experiment: Path, view: View) -> bool:
        """Run all; returns False if it was asked to stop before the end."""


def add_launcher(parser: Parser) -> None:
    """Add the arguments that decide where runs are done."""
    group = parser.add_argument_group("where runs are done (docs/cluster.md)")
    group.add_argument("--launcher", default="local", choices=LAUNCHERS)
    group.add_argument("--workers", type=int, help="runs at a time; local: default one per core")
    group.add_argument("--cpus-per-run", type=float, help="cluster: cores of a run; default 1")
    group.add_argument("--gpus-per-run", type=float, help="cluster: default 1 with --device cuda")
    group.add_argument("--memory-per-run", type=float, metavar="GB", help="cluster: its own rule")
    group.add_argument("--address", help="Ray: auto (default) or HOST:PORT of its head")
    group.add_argument("--partition", help="Slurm: default is the cluster's")
    group.add_argument(
        "--time",
        type=int,
        metavar="MINUTES",
        help=f"Slurm: limit of a job; its run goes on in the next; default {SLURM_MINUTES}",
    )
    group.add_argument(
        "--slurm", action="append", metavar="KEY=VALUE", help="Slurm: other option of sbatch"
    )


def default_workers(device: str) -> int:
    """Return runs at a time here: one per core that this process may use, one per GPU."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_launcher(arguments: argparse.Namespace, workers: int, settings: RunSettings) -> Launcher:
    """Return the launcher of a command line.

    Args:
        arguments: those of `add_launcher`, and `--device`.
        workers: processes at a time of the local one.
        settings: device, checkpoints and the like.

    Raises:
        UserError: an option does not fit the launcher, or it cannot work here.
    """
    for name, launchers in ONLY.items():
        value = getattr(arguments, name)
        value = value[0] if isinstance(value, list) else value
        if value is not None and arguments.launcher not in launchers:
            option, valid = name.replace("_", "-"), " or ".join(launchers)
            shown = f"{value:g}" if isinstance(value, int | float) else value
            raise UserError(f"--{option} {shown}: only with --launcher {valid}")
    # Imported here: Ray and submitit are needed by those alone who use them.
    if arguments.launcher == "local":
        from runners.launchers.local import LocalLauncher

        return LocalLauncher(workers, settings)
    from runners.launchers.remote import Needs

    cpus, gpus = arguments.cpus_per_run, arguments.gpus_per_run
    needs = Needs(
        1.0 if cpus is None else cpus,
        float(settings.device != "cpu") if gpus is None else gpus,
        arguments.memory_per_run,
    )
    if arguments.launcher == "ray":
        from runners.launchers.ray import RayLauncher

        return RayLauncher(arguments.address or "auto", settings, needs)
    from runners.launchers.slurm import SlurmLauncher

    minutes = SLURM_MINUTES if arguments.time is None else positive("time", arguments.time)
    at_once = arguments.workers
    if at_once is not None:
        positive("workers", at_once)
    extra = _pairs(arguments.slurm or [])
    return SlurmLauncher(settings, needs, minutes, arguments.partition, at_once, extra)


def _pairs(texts: Sequence[str]) -> Mapping[str, str]:
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value) or key.startswith("-"):
            raise UserError(f"--slurm {text}: expected KEY=VALUE, as in account=mine")
    return {key: value for key, _, value in (text.partition("=") for text in texts)}
