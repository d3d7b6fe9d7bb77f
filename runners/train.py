"""Train one cell in this process: `python -m runners.train --algo sac --task mbbl/Hopper-ET`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import algos
from runners.cells.cell import Cell
from runners.cells.errors import EXIT_AGAIN, EXIT_FAILED, EXIT_OK, UserError
from runners.cells.grid import make_cells, parse_entry, unsupported
from runners.cells.protocols import Protocol, get_protocol
from runners.storage.rundir import open_experiment
from runners.terminal.cli import Parser, check_device, run_main
from runners.terminal.machine import check_disk, check_drawing, frame_bytes
from runners.terminal.options import (
    add_help_algo,
    add_protocol,
    add_seeds,
    add_settings,
    both_forms,
    experiment_path,
    only_one,
    seeds_of,
    settings_of,
)
from runners.terminal.progress import View, make_console
from runners.training.loop import Progress
from runners.training.tracking import check_sinks
from runners.training.worker import StopFlag, run_here


def parser() -> Parser:
    """Arguments of the command."""
    result = Parser("runners.train", str(__doc__))
    cell = result.add_argument_group("what is run")
    cell.add_argument(
        *both_forms("algo"),
        required=True,
        metavar="NAME",
        help=f"one of {', '.join(algos.list_algos())}, or ALGO@PRESET, or a .py file of your own",
    )
    cell.add_argument(
        *both_forms("task"), required=True, metavar="ID", help="for example mbbl/HalfCheetah"
    )
    add_seeds(cell, "seed 0")
    cell.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="option of the agent"
    )
    add_protocol(cell)
    add_settings(result.add_argument_group("how it is run"))
    add_help_algo(result)
    return result


def make_cell(arguments: argparse.Namespace, protocol: Protocol) -> Cell:
    """Return the cell that a command line asks for.

    Raises:
        UserError: it asks for several, or for one that there is not.
    """
    entry, task = only_one("algo", arguments.algo), only_one("task", arguments.task)
    algo = algos.name_of(parse_entry(entry)[0])
    for text in arguments.set:
        if not all(text.partition("=")):
            raise UserError(f"--set {text}: expected OPTION=VALUE")
    seeds = seeds_of(arguments, 1)
    if len(seeds) > 1:
        name = "seeds" if arguments.seed is None else "seed"
        given = f"--{name} {getattr(arguments, name)}"
        raise UserError(f"{given}: expected one number, 0 or more; runners.sweep takes several")
    sets = [f"{algo}.{text}" for text in arguments.set]
    (cell,) = make_cells([entry], [task], seeds, protocol, sets)
    if (reason := unsupported(cell)) is not None:
        raise UserError(f"--task {cell.task}: {reason}")
    return cell


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_args(argv)
    protocol = get_protocol(arguments.protocol).with_steps(arguments.steps)
    cell = make_cell(arguments, protocol)
    device = check_device(arguments.device)
    check_drawing([cell])
    experiment = experiment_path(arguments, protocol)
    check_disk(experiment, frame_bytes(cell))
    settings = settings_of(arguments, device, check_sinks(arguments.track))
    open_experiment(experiment, protocol)
    console = make_console()
    with View([cell], console, cell.name) as view:
        row = view.row(cell)
        row.begin()

        def report(progress: Progress) -> None:
            row.update(progress.step, progress.returns[0])
            row.reason = progress.notice
            view.refresh()

        with StopFlag() as stop:
            (end,) = run_here((cell,), experiment, settings, stop, report)
        if end.status == "refused":
            raise UserError(str(end.reason))
        row.end(end.status, end.reason)
    console.print(f"files: {cell.path(experiment)}", soft_wrap=True)
    codes = {"done": EXIT_OK, "stopped": EXIT_AGAIN, "elsewhere": EXIT_AGAIN}
    return codes.get(end.status, EXIT_FAILED)


if __name__ == "__main__":
    run_main(main)
