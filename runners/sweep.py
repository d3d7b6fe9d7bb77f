"""Run a grid of algorithms, tasks and seeds, then report: `python -m runners.sweep`.

Finished cells are not run again; a sweep that was killed goes on with the same command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import algos
import envs
from algos.base.agent import Agent
from runners.cells.cell import Cell
from runners.cells.errors import EXIT_AGAIN, EXIT_FAILED, EXIT_OK, UserError, positive
from runners.cells.grid import agent_for, make_cells, split, unsupported
from runners.cells.protocols import Protocol, get_protocol
from runners.cells.settings import RunSettings
from runners.launchers.choose import Launcher, add_launcher, default_workers, make_launcher
from runners.storage import manifest
from runners.storage.requested import write_requested
from runners.storage.rundir import RunDirectory, open_experiment
from runners.terminal.cli import Parser, check_device, run_main
from runners.terminal.machine import check_disk, check_drawing, frame_bytes
from runners.terminal.options import (
    add_help_algo,
    add_protocol,
    add_seeds,
    add_settings,
    both_forms,
    experiment_path,
    seeds_of,
    settings_of,
)
from runners.terminal.progress import Row, View, make_console
from runners.training.dry_run import dry_run
from runners.training.groups import make_runs
from runners.training.tracking import check_sinks


@dataclass(frozen=True)
class Request:
    """What a command line asks for.

    Attributes:
        entries: algorithms, each with its preset if it has one.
        tasks: task ids.
        seeds: seed indices.
        sets: options of algorithms, `algo.option=value`.
        protocol: what all cells have in common.
        experiment: the folder where cells live.
        settings: how runs are done.
        workers: runs at a time; None is all.
        replicas: most seeds that one process trains together; None is all that the agent takes.
    """

    entries: Sequence[str]
    tasks: Sequence[str]
    seeds: Sequence[int]
    sets: Sequence[str]
    protocol: Protocol
    experiment: Path
    settings: RunSettings
    workers: int | None
    replicas: int | None


def parser() -> Parser:
    """Arguments of the command."""
    result = Parser("runners.sweep", str(__doc__), usage="python -m runners.sweep [option ...]")
    cells = result.add_argument_group("what is run")
    cells.add_argument(
        *both_forms("algos"),
        metavar="NAMES",
        help=f"comma list of {', '.join(algos.list_algos())}, or ALGO@PRESET, or a .py file of "
        "your own; default: all that take the observations of one of the tasks",
    )
    cells.add_argument(
        *both_forms("tasks"), metavar="IDS", help="comma list of task ids; default: the protocol's"
    )
    add_seeds(cells, "the protocol's")
    cells.add_argument(
        "--set", action="append", default=[], metavar="ALGO.OPTION=VALUE", help="option of an agent"
    )
    add_protocol(cells)
    runs = result.add_argument_group("how it is run")
    add_settings(runs)
    runs.add_argument(
        "--replicas",
        type=int,
        metavar="N",
        help="seeds that one process trains together; default: 1, on CUDA all that the agent takes",
    )
    runs.add_argument(
        "--step-timeout",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="kill a worker that makes no step for so long, and try its run again",
    )
    add_launcher(result)
    output = result.add_argument_group("what is shown")
    output.add_argument("--dry-run", action="store_true", help="show the cells and their cost only")
    output.add_argument("--no-report", action="store_true", help="leave the report out at the end")
    add_help_algo(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_args(argv)
    request, console = read_request(arguments), make_console()
    cells = make_cells(
        request.entries, request.tasks, request.seeds, request.protocol, request.sets
    )
    check_drawing([cell for cell in cells if unsupported(cell) is None])
    workers = request.workers or len(cells)
    if arguments.dry_run:
        return dry_run(cells, request.experiment, request.settings.device, workers, console)
    waiting = begin(request, cells, workers, console)
    launcher = make_launcher(arguments, workers, request.settings)
    rows = execute(request, waiting, launcher, console)
    if rows is None:
        console.print(launcher.stopped)
        return EXIT_AGAIN
    complete = all_well(rows, console)
    reported = arguments.no_report or report(request.experiment) == EXIT_OK
    return EXIT_OK if complete and reported else EXIT_FAILED


def read_request(arguments: argparse.Namespace) -> Request:
    """Return what the arguments ask for.

    Raises:
        UserError: a value is impossible, or this machine does not have it.
    """
    protocol = get_protocol(arguments.protocol).with_steps(arguments.steps)
    tasks = split(arguments.tasks) if arguments.tasks is not None else list(protocol.tasks)
    entries = algos.list_algos() if arguments.algos is None else split(arguments.algos)
    for name, values, valid in (
        ("algos", entries, algos.list_algos()),
        ("tasks", tasks, envs.list_tasks()),
    ):
        if not values:
            raise UserError(f"--{name} '': valid {name} are {', '.join(valid)}")
    if arguments.algos is None:
        entries = [name for name in entries if takes_one_of(tasks, algos.load(name))]
    local = arguments.launcher == "local"  # else the devices are those of other machines
    device = check_device(arguments.device) if local else arguments.device
    for name in ("workers", "replicas"):
        if getattr(arguments, name) is not None:
            positive(name, getattr(arguments, name))
    return Request(
        entries=entries,
        tasks=tasks,
        seeds=seeds_of(arguments, protocol.seeds),
        sets=arguments.set,
        protocol=protocol,
        experiment=experiment_path(arguments, protocol),
        settings=settings_of(
            arguments, device, check_sinks(arguments.track), arguments.step_timeout
        ),
        workers=arguments.workers or (default_workers(device) if local else None),
        replicas=arguments.replicas or (1 if device == "cpu" else None),
    )


def takes_one_of(tasks: Sequence[str], agent: type[Agent]) -> bool:
    """Whether the agent takes the observations of one of the tasks."""
    return any(agent_for(agent, task) is not None for task in tasks)


def begin(request: Request, cells: Sequence[Cell], workers: int, console: Console) -> list[Cell]:
    """Open the experiment, note what is asked for, and return the cells that are not done.

    Raises:
        UserError: the folder holds something else, or its disk is too small.
    """
    experiment = request.experiment
    check_disk(experiment)
    open_experiment(experiment, request.protocol)
    waiting = unfinished(cells, experiment, console)
    write_requested(cells, experiment)
    frames = [frame_bytes(cell) for cell in waiting if unsupported(cell) is None]
    check_disk(experiment, sum(sorted(frames, reverse=True)[:workers]))
    return waiting


def execute(
    request: Request, cells: Sequence[Cell], launcher: Launcher, console: Console
) -> list[Row] | None:
    """Run cells and return how each ended; None if the sweep was stopped before the end."""
    experiment, device = request.experiment, request.settings.device
    with View(cells, console, f"{experiment} ({request.protocol.name})") as view:
        supported = [cell for cell in cells if not refused(cell, experiment, device, view)]
        runs = make_runs(supported, experiment, request.replicas)
        for cell in (cell for run in runs for cell in run):  # a group may hold more than asked
            view.rows.setdefault(cell.name, Row(cell))
        finished = launcher.run(runs, experiment, view) if runs else True
    return list(view.rows.values()) if finished else None


def all_well(rows: Sequence[Row], console: Console) -> bool:
    """Print every row that is not done; return whether none has failed."""
    bad = [row for row in rows if row.status != "done"]
    for row in bad:
        console.print(f"{row.cell.name}: {row.status}: {row.reason}", soft_wrap=True)
    return {row.status for row in bad} <= {"unsupported"}  # that is an answer, not a failure


def unfinished(cells: Sequence[Cell], experiment: Path, console: Console) -> list[Cell]:
    """Return the cells that have still to be run; say how many are finished already."""
    waiting = [c for c in cells if RunDirectory(c, experiment).status() != "done"]
    done = len(cells) - len(waiting)
    if done:
        console.print(f"{done} of {len(cells)} cells are finished already")
    return waiting


def refused(cell: Cell, experiment: Path, device: str, view: View) -> bool:
    """Whether the cell's agent does not support its task; the reason goes into run.json."""
    reason = unsupported(cell)
    if reason is None:
        return False
    directory = RunDirectory(cell, experiment)
    directory.path.mkdir(parents=True, exist_ok=True)
    record = {"status": "unsupported", "reason": reason}
    directory.write_manifest(manifest.build(cell, device) | record)
    view.row(cell).end("unsupported", reason)
    return True


def report(experiment: Path) -> int:
    """Write the report in a process of its own: the analysis reads files only."""
    return subprocess.run([sys.executable, "-m", "analysis.report", str(experiment)]).returncode


if __name__ == "__main__":
    run_main(main)
