"""The dry run of a sweep: its cells with measured estimates of time, memory and disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from runners.cells.cell import Cell
from runners.cells.errors import EXIT_OK, EXIT_USAGE, UserError
from runners.cells.grid import unsupported
from runners.storage.rundir import RunDirectory
from runners.terminal.machine import check_disk
from runners.terminal.progress import clock
from runners.training.estimate import Estimate, estimates
from runners.training.process import setup_process


def dry_run(
    cells: Sequence[Cell], experiment: Path, device: str, workers: int, console: Console
) -> int:
    """Print what a sweep would do, write nothing, and return the exit code.

    Args:
        cells: all of them, finished or not.
        experiment: their folder, which need not exist.
        device: where each would run.
        workers: how many would run at a time.
        console: where to print.
    """
    setup_process()
    reasons = {cell.name: unsupported(cell) for cell in cells}
    supported = [cell for cell in cells if reasons[cell.name] is None]
    costs = estimates(supported, device)
    states = [RunDirectory(cell, experiment).status() for cell in supported]
    table = Table(title=f"{len(cells)} cells for {experiment}, {workers} workers")
    for column in ("cell", "steps", "time", "memory", "checkpoint", "state"):
        table.add_column(column, justify="left" if column == "cell" else "right", no_wrap=True)
    for cell, cost, state in zip(supported, costs, states, strict=True):
        sizes = (f"{cost.memory >> 20:,} MB", f"{cost.disk >> 20:,} MB")
        table.add_row(cell.name, f"{cell.protocol.steps:,}", clock(cost.seconds), *sizes, state)
    for cell in cells:
        if reasons[cell.name] is not None:
            table.add_row(cell.name, *"-" * 4, "unsupported")
    console.print(table)
    for reason in dict.fromkeys(filter(None, reasons.values())):
        console.print(f"unsupported: {reason}", soft_wrap=True)
    left = [cost.seconds for cost, state in zip(costs, states, strict=True) if state != "done"]
    return _print_totals(costs, sum(left), experiment, workers, console)


def _print_totals(
    costs: Sequence[Estimate], seconds: float, experiment: Path, workers: int, console: Console
) -> int:
    """Print what all takes together, and return whether the disk holds it, as an exit code."""
    memory = sum(sorted((cost.memory for cost in costs), reverse=True)[:workers])
    disk = sum(sorted((cost.disk for cost in costs), reverse=True)[:workers])
    console.print(
        f"about {clock(seconds / workers)} on {workers} workers, "
        f"{memory >> 20:,} MB of memory, {disk >> 20:,} MB of disk for checkpoints"
    )
    try:
        check_disk(experiment, disk)
    except UserError as error:
        console.print(f"this would be refused: {error}", soft_wrap=True)
        return EXIT_USAGE
    return EXIT_OK
