"""What the cells of an experiment do, from another terminal: `python -m runners.status quick`.

Reads files only, so it can be asked at any time and from any machine that sees the folder.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from rich.console import Console, Group
from rich.live import Live

from runners.cells.errors import EXIT_OK, UserError
from runners.cells.statuses import SHOWN
from runners.storage.experiment_status import CellStatus, ExperimentStatus, read_status
from runners.storage.rundir import experiment_folder
from runners.terminal.cli import Parser, run_main
from runners.terminal.progress import MOST_ROWS, clock, make_console, make_table, number


@dataclass(frozen=True)
class Section:
    """A table for a terminal that is lines of text elsewhere.

    Attributes:
        title: what it shows.
        names: heads of the columns with text.
        numbers: heads of the columns with numbers, which follow.
        rows: the texts of each row.
    """

    title: str
    names: tuple[str, ...]
    numbers: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def table(self, most: int) -> Group:
        """Return a table of at most so many rows, which says how many more there are."""
        result = make_table(self.title, self.names, self.numbers)
        for row in self.rows[:most]:
            result.add_row(*row)
        if len(self.rows) > most:
            result.add_row(f"... and {len(self.rows) - most} more")
        return Group("", result)

    def lines(self) -> list[str]:
        """Every row, in columns."""
        grid = [(*self.names, *self.numbers), *self.rows]
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        texts = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in grid)
        return ["", self.title, *(f"  {text}" for text in texts)]


def summary(experiment: ExperimentStatus) -> list[str]:
    """How many cells are how far, when it ends, and what it takes."""
    counts = Counter(cell.status for cell in experiment.cells)
    told = ", ".join(f"{counts[status]} {status}" for status in SHOWN if counts[status])
    count = f"{len(experiment.cells)} cells"
    lines = [f"{experiment.path} ({experiment.protocol}), {count}: {told or 'none'}"]
    if experiment.total_eta is not None:
        lines.append(f"all done in about {clock(experiment.total_eta)}, if so many run at a time")
    total, checkpoints = experiment.disk.total, experiment.disk.checkpoints
    return [*lines, f"on disk: {_megabytes(total)}, {_megabytes(checkpoints)} of it checkpoints"]


def sections(experiment: ExperimentStatus) -> list[Section]:
    """Return what runs, what went wrong, results so far, notices; none that would be empty."""
    running = [_running_row(experiment, cell) for cell in experiment.having("running")]
    bad = experiment.having("failed", "diverged", "unreadable", "interrupted", "unsupported")
    reasons = [(cell.name, cell.status, cell.reason or _hint(cell)) for cell in bad]
    methods = [_method_row(*key, cells) for key, cells in experiment.methods.items()]
    notices = [(cell.name, notice) for cell in experiment.cells for notice in cell.notices]
    numbers = ("progress", "steps/s", "last return", "ETA", "seen")
    found = [
        Section("running", ("cell", "where"), numbers, running),
        Section("failed, interrupted or unsupported", ("cell", "status", "reason"), (), reasons),
        Section("methods", ("task", "method"), ("done", "running", "last return"), methods),
        Section("notices", ("cell", "reason"), (), notices),
    ]
    return [section for section in found if section.rows]


def _running_row(experiment: ExperimentStatus, cell: CellStatus) -> tuple[str, ...]:
    assert cell.holder is not None, "a cell runs where a process has it"
    eta = experiment.eta(cell)
    return (
        cell.name,
        f"{cell.holder.host} {cell.holder.pid}",
        f"{min(cell.step, experiment.steps):,}/{experiment.steps:,}",
        number(cell.rate, 1),
        number(cell.last_return, 1),
        "-" if eta is None else clock(eta),
        f"{clock(cell.holder.age)} ago",
    )


def _hint(cell: CellStatus) -> str:
    return "no process has it; run the sweep again" if cell.status == "interrupted" else ""


def _method_row(task: str, label: str, cells: Sequence[CellStatus]) -> tuple[str, ...]:
    counts = Counter(cell.status for cell in cells)
    returns = [cell.last_return for cell in cells if cell.last_return is not None]
    return (
        task,
        label,
        f"{counts['done']}/{len(cells)}",
        str(counts["running"]),
        number(mean(returns) if returns else None, 1),
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def show(experiment: ExperimentStatus, console: Console) -> None:
    """Print once: tables in a terminal, lines elsewhere."""
    if console.is_terminal:
        console.print(_screen(experiment, sys.maxsize))
        return
    lines = summary(experiment) + [
        line for section in sections(experiment) for line in section.lines()
    ]
    console.print("\n".join(lines), soft_wrap=True)


def _screen(experiment: ExperimentStatus, most: int) -> Group:
    return Group(*summary(experiment), *(section.table(most) for section in sections(experiment)))


def watch(path: Path, seconds: float, console: Console) -> None:
    """Show again and again until Ctrl-C."""
    if not console.is_terminal:
        while True:
            show(read_status(path), console)
            console.print()
            time.sleep(seconds)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_screen(read_status(path), MOST_ROWS), refresh=True)
            time.sleep(seconds)


def parser() -> Parser:
    """Arguments of the command."""
    result = Parser("runners.status", str(__doc__))
    result.add_argument("experiment", help="NAME (a folder of results/) or a PATH")
    result.add_argument("--watch", type=float, metavar="SECONDS", help="look again so often")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_args(argv)
    path, seconds = experiment_folder(arguments.experiment), arguments.watch
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UserError(f"--watch {seconds:g}: must be more than 0 seconds")
    console = make_console()
    if seconds is None:
        show(read_status(path), console)
        return EXIT_OK
    with contextlib.suppress(KeyboardInterrupt):
        watch(path, seconds, console)
    return EXIT_OK


if __name__ == "__main__":
    run_main(main)
