"""The live table of a sweep, or plain lines where the output is no terminal."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table

from runners.cells.cell import Cell

REFRESH_SECONDS = 0.5
PLAIN_SECONDS = 15.0
RATE_SECONDS = 5.0
MOST_ROWS = 24
UNDER_WAY = ("waiting", "running", "elsewhere")
WRAPPED = ("status", "reason")
PLAIN_WIDTH = 240


def make_console() -> Console:
    """Where commands print: brackets in names and reasons are no markup, files get wide lines."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False)


@dataclass
class Row:
    """What is known of one cell.

    Attributes:
        cell: the cell.
        status: waiting, running, or how it ended.
        reason: one line where the status needs one.
        step: environment steps done.
        last_return: mean return of the last evaluation.
    """

    cell: Cell
    status: str = "waiting"
    reason: str | None = None
    step: int = 0
    last_return: float | None = None
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def ended(self) -> bool:
        """Whether the cell is no longer waiting or running."""
        return self.status not in ("waiting", "running")

    def begin(self) -> None:
        """Note that the cell's process was started, perhaps once more."""
        self.status, self.reason = "running", None
        self._marks.clear()

    def update(self, step: int, last_return: float | None) -> None:
        """Take in a progress message."""
        now = time.monotonic()
        if step > 0:
            self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_SECONDS:
            self._marks.popleft()
        self.step, self.last_return = step, last_return

    def end(self, status: str, reason: str | None) -> None:
        """Note that the cell ended."""
        self.status, self.reason = status, reason
        if len(self._marks) > 2:  # thousands of ended rows must not pile up memory
            self._marks = deque((self._marks[0], self._marks[-1]))

    @property
    def rate(self) -> float | None:
        """Steps per second of late: random steps are many times faster than learning."""
        if len(self._marks) < 2:
            return None
        (start, before), (now, step) = self._marks[0], self._marks[-1]
        return (step - before) / (now - start) if now > start else None

    @property
    def eta(self) -> float | None:
        """Seconds to the end at the present rate."""
        rate = self.rate
        return (self.cell.protocol.steps - self.step) / rate if rate else None


class View:
    """Shows the rows of a sweep while it runs.

    Args:
        cells: all cells, in order.
        console: where to show; a terminal gets a table, anything else plain lines.
        title: first line.
    """

    def __init__(self, cells: Sequence[Cell], console: Console, title: str) -> None:
        self.rows = {cell.name: Row(cell) for cell in cells}
        self.console, self.title = console, title
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown = 0.0
        self._told: dict[str, str] = {}
        self._last_plain = time.monotonic()

    def row(self, cell: Cell) -> Row:
        """Return the row of a cell."""
        return self.rows[cell.name]

    def __enter__(self) -> View:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh(final=True)
        if self.live:
            self.live.stop()

    def refresh(self, final: bool = False) -> None:
        """Show the present state, at most every half second."""
        now = time.monotonic()
        if not final and now - self._shown < REFRESH_SECONDS:
            return
        if self.live:
            self.live.update(self._table(), refresh=True)
        else:
            self._plain(now)
        self._shown = time.monotonic()  # so that a slow terminal does not take all the time

    def _plain(self, now: float) -> None:
        """One line when a cell starts or ends, and now and then one per running cell."""
        periodic = now - self._last_plain >= PLAIN_SECONDS
        if periodic:
            self._last_plain = now
        for name, row in self.rows.items():
            if row.status == "waiting":
                continue
            changed = self._told.get(name) != row.status
            if changed or (periodic and row.status == "running"):
                self._told[name] = row.status
                self.console.print(self._line(row), highlight=False, soft_wrap=True)

    def _line(self, row: Row) -> str:
        texts = _texts(row)
        if row.status != "running":
            tail = f": {row.reason}" if row.reason else ""
            return f"{row.cell.name}: {row.status}, last return {texts[4]}{tail}"
        return (
            f"{row.cell.name}: {texts[2]}, {texts[3]} steps/s, "
            f"last return {texts[4]}, ETA {texts[5]}"
        )

    def _table(self) -> Table:
        counts = Counter(row.status for row in self.rows.values())
        ended = len(self.rows) - sum(counts[status] for status in UNDER_WAY)
        table = make_table(
            f"{self.title}: {ended}/{len(self.rows)} cells",
            ("cell", "status"),
            ("progress", "steps/s", "last return", "ETA"),
        )
        # What went wrong comes before what went well: a long table is cut.
        order = {"running": 0, "done": 2, "waiting": 3}
        rows = sorted(self.rows.values(), key=lambda row: order.get(row.status, 1))
        for row in rows[:MOST_ROWS]:
            table.add_row(*_texts(row))
        if len(rows) > MOST_ROWS:
            table.add_row(f"... and {len(rows) - MOST_ROWS} more")
        return table


def make_table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    """Return an empty table with columns of names on the left and of numbers on the right."""
    table = Table(title=title, title_justify="left")
    for column in names:
        table.add_column(column, no_wrap=column not in WRAPPED)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _texts(row: Row) -> tuple[str, ...]:
    total = row.cell.protocol.steps
    rate, eta = row.rate, row.eta
    return (
        row.cell.name,
        f"{row.status}: {row.reason}" if row.reason else row.status,
        f"{min(row.step, total):,}/{total:,}",
        number(rate),
        number(row.last_return, 1),
        "-" if eta is None or row.status != "running" else clock(eta),
    )


def number(value: float | None, decimals: int = 0) -> str:
    """Return a number with thousands marked, `-` for none."""
    return "-" if value is None else f"{value:,.{decimals}f}"


def clock(seconds: float) -> str:
    """Seconds as `12s`, `3m05s` or `2h07m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
