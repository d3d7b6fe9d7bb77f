"""Run a grid of algorithms, tasks and seeds, then report: `python -m runners.sweep`.

Finished cells are not run again; a sweep that was killed goes on with the same command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import algos
import envs
from algos.base.agent import Agent
from runners.cells.cell import Cell
from runners.cells.errors import EXIT_AGAIN, EXIT_FAILED, EXIT_OK, EXIT_USAGE, UserError, positive
from runners.cells.grid import agent_for, make_cells, parse_seeds, split, unsupported
from runners.cells.protocols import get_protocol
from runners.launchers.choose import add_launcher, make_launcher
from runners.storage import manifest
from runners.storage.requested import write_requested
from runners.storage.rundir import RunDirectory, open_experiment
from runners.terminal.cli import Parser, check_device, run_main
from runners.terminal.options import (
    add_common,
    check_common,
    check_disk,
    check_drawing,
    experiment_path,
    frame_bytes,
    options_text,
    settings_of,
)
from runners.terminal.progress import Row, View, clock, make_console
from runners.training.groups import make_runs
from runners.training.tracking import check_sinks


def parser() -> Parser:
    """Arguments of the command."""
    result = Parser("runners.sweep", str(__doc__), epilog=options_text(algos.list_algos()))
    names = ", ".join(algos.list_algos())
    result.add_argument(
        "--algos",
        help=f"comma list of {names}, or ALGO@PRESET, or a .py file of your own; "
        "default: all that take the observations of one of the tasks",
    )
    result.add_argument("--tasks", help="comma list of task ids; default: the protocol's")
    result.add_argument("--seeds", help="a count like 4, or a list like 0,3,7")
    result.add_argument(
        "--replicas",
        type=int,
        help="seeds that one process trains together; default: 1, on CUDA all that the agent takes",
    )
    result.add_argument(
        "--step-timeout",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="kill a worker that makes no step for so long, and try its run again",
    )
    result.add_argument(
        "--set", action="append", default=[], metavar="ALGO.OPTION=VALUE", help="option of an agent"
    )
    result.add_argument("--dry-run", action="store_true", help="show the cells and their cost only")
    result.add_argument("--no-report", action="store_true", help="leave the report out at the end")
    add_common(result)
    add_launcher(result)
    return result


def default_workers(device: str) -> int:
    """One process per core that this process may use, one per GPU."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def takes_one_of(tasks: Sequence[str], agent: type[Agent]) -> bool:
    """Whether the agent takes the observations of one of the tasks."""
    return any(agent_for(agent, task) is not None for task in tasks)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_args(argv)
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
    seeds = parse_seeds(arguments.seeds if arguments.seeds is not None else str(protocol.seeds))
    cells = make_cells(entries, tasks, seeds, protocol, arguments.set)
    local = arguments.launcher == "local"  # else the devices are those of other machines
    device = check_device(arguments.device) if local else arguments.device
    asked = arguments.workers
    default = default_workers(device) if local else len(cells)
    workers = default if asked is None else positive("workers", asked)
    if arguments.replicas is not None:
        positive("replicas", arguments.replicas)
    if not arguments.step_timeout > 0:  # NaN as well
        raise UserError(f"--step-timeout {arguments.step_timeout:g}: must be above 0")
    check_common(arguments)
    check_drawing([cell for cell in cells if unsupported(cell) is None])
    settings = settings_of(arguments, device, check_sinks(arguments.track), arguments.step_timeout)
    experiment = experiment_path(arguments, protocol)
    console = make_console()
    if arguments.dry_run:
        return dry_run(cells, experiment, device, workers, console)
    check_disk(experiment)
    open_experiment(experiment, protocol)
    waiting = unfinished(cells, experiment, console)
    write_requested(cells, experiment)
    frames = [frame_bytes(cell) for cell in waiting if unsupported(cell) is None]
    check_disk(experiment, sum(sorted(frames, reverse=True)[:workers]))
    launcher = make_launcher(arguments, workers, settings)
    with View(waiting, console, f"{experiment} ({protocol.name})") as view:
        supported = [cell for cell in waiting if not refused(cell, experiment, device, view)]
        replicas = arguments.replicas or (1 if device == "cpu" else None)
        runs = make_runs(supported, experiment, replicas)
        for cell in (cell for run in runs for cell in run):  # a group may hold more than asked
            view.rows.setdefault(cell.name, Row(cell))
        finished = launcher.run(runs, experiment, view) if runs else True
    if not finished:
        console.print(launcher.stopped)
        return EXIT_AGAIN
    bad = [row for row in view.rows.values() if row.status != "done"]
    for row in bad:
        console.print(f"{row.cell.name}: {row.status}: {row.reason}", soft_wrap=True)
    reported = EXIT_OK if arguments.no_report else report(experiment)
    ends = {row.status for row in bad} - {"unsupported"}  # that is an answer, not a failure
    return EXIT_FAILED if reported or ends else EXIT_OK


def unfinished(cells: Sequence[Cell], experiment: Path, console: Console) -> list[Cell]:
    """The cells that have still to be run; says how many are finished already."""
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


def dry_run(
    cells: Sequence[Cell], experiment: Path, device: str, workers: int, console: Console
) -> int:
    """Show the cells with measured estimates of time, memory and disk."""
    from runners.training.process import setup_process

    setup_process()
    from runners.training.estimate import estimates

    table = Table(title=f"{len(cells)} cells for {experiment}, {workers} workers")
    for column in ("cell", "steps", "time", "memory", "checkpoint", "state"):
        table.add_column(column, justify="left" if column == "cell" else "right", no_wrap=True)
    reasons = {cell.name: unsupported(cell) for cell in cells}
    supported = [cell for cell in cells if reasons[cell.name] is None]
    costs = estimates(supported, device)
    left = 0.0
    for cell, cost in zip(supported, costs, strict=True):
        state = RunDirectory(cell, experiment).status()
        left += 0.0 if state == "done" else cost.seconds
        sizes = (f"{cost.memory >> 20:,} MB", f"{cost.disk >> 20:,} MB")
        table.add_row(cell.name, f"{cell.protocol.steps:,}", clock(cost.seconds), *sizes, state)
    for cell in cells:
        if reasons[cell.name] is not None:
            table.add_row(cell.name, *"-" * 4, "unsupported")
    console.print(table)
    for reason in dict.fromkeys(filter(None, reasons.values())):
        console.print(f"unsupported: {reason}", soft_wrap=True)
    largest = sorted((cost.memory for cost in costs), reverse=True)[:workers]
    disk = sum(sorted((cost.disk for cost in costs), reverse=True)[:workers])
    console.print(
        f"about {clock(left / workers)} on {workers} workers, "
        f"{sum(largest) >> 20:,} MB of memory, {disk >> 20:,} MB of disk for checkpoints"
    )
    try:
        check_disk(experiment, disk)
    except UserError as error:
        console.print(f"this would be refused: {error}", soft_wrap=True)
        return EXIT_USAGE
    return EXIT_OK


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]))
