"""What the local launcher costs: very many tiny cells, a process each, through the real thing.

    python -m runners.bench.launcher --cells 2000

Each cell trains SAC with small networks on a bandit for less than a second. Overhead is the share
of the workers' time that went into anything but the cells: starting and ending processes, choosing
what runs next, drawing the table. The table is drawn as in a terminal, which keeps nothing of it.
"""

from __future__ import annotations

import dataclasses
import io
import json
import resource
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from runners.bench.record import add_json, check_json, write_record
from runners.cells.errors import EXIT_FAILED, EXIT_OK, positive
from runners.cells.grid import make_cells
from runners.cells.protocols import TOY
from runners.cells.settings import RunSettings
from runners.launchers.choose import default_workers
from runners.launchers.local import LocalLauncher
from runners.storage import manifest
from runners.storage.rundir import open_experiment
from runners.terminal.cli import Parser, run_main
from runners.terminal.progress import View

LOAD = dataclasses.replace(
    TOY, name="load", steps=300, eval_episodes=10, note="tiny cells, to measure the launcher"
)


class Meter(io.StringIO):
    """A terminal that keeps nothing but when the table was drawn, and how large we were then.

    Args:
        title: what every drawn table holds.

    Attributes:
        times: monotonic seconds of each table.
        sizes: resident bytes of this process at each table.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self.times: list[float] = []
        self.sizes: list[int] = []

    def write(self, text: str) -> int:
        """Take note of a table and drop it."""
        if self.title in text:
            self.times.append(time.monotonic())
            self.sizes.append(resident())
        return len(text)

    @property
    def smallest_gap(self) -> float:
        """Least seconds between two tables."""
        return min((after - before for before, after in pairwise(self.times)), default=float("inf"))


@dataclass(frozen=True)
class Load:
    """What many tiny cells cost.

    Attributes:
        workers: processes at a time.
        ended: number of cells by how they ended.
        wall_seconds: from before the first process to after the last.
        cell_seconds: what the cells took for themselves, in all.
        tables: times that the table was drawn.
        gap_seconds: least time between two tables.
        early_bytes: memory of the launching process after a tenth of the time.
        late_bytes: the same at the end.
    """

    workers: int
    ended: Mapping[str, int]
    wall_seconds: float
    cell_seconds: float
    tables: int
    gap_seconds: float
    early_bytes: int
    late_bytes: int

    @property
    def overhead(self) -> float:
        """Share of the workers' time outside of the cells."""
        return 1.0 - self.cell_seconds / (self.workers * self.wall_seconds)

    def __str__(self) -> str:
        """Return the result in lines for people."""
        ended = ", ".join(f"{count} {status}" for status, count in self.ended.items())
        cells = sum(self.ended.values())
        early, late = self.early_bytes / 2**20, self.late_bytes / 2**20
        return (
            f"{cells} cells on {self.workers} workers: {ended}\n"
            f"{self.wall_seconds:.1f} s, {self.cell_seconds / cells:.2f} s for a cell itself\n"
            f"overhead {self.overhead:.1%} of the workers' time\n"
            f"launching process {early:.1f} MiB after a tenth of the time, {late:.1f} at the end\n"
            f"table drawn {self.tables} times, at least {1000 * self.gap_seconds:.0f} ms apart"
        )


def resident() -> int:
    """Bytes of main memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(count: int, workers: int, experiment: Path) -> Load:
    """Run `count` tiny cells, which differ by their seed only, in a new experiment folder."""
    cells = make_cells(["sac"], ["toy/bandit"], range(count), LOAD)
    open_experiment(experiment, LOAD)
    launcher = LocalLauncher(workers, RunSettings())
    meter = Meter("tiny cells")
    console = Console(file=meter, force_terminal=True, width=140, height=50)
    began = time.monotonic()
    with View(cells, console, meter.title) as view:
        launcher.run([(cell,) for cell in cells], experiment, view)
        wall = time.monotonic() - began
        tables, gap, sizes = len(meter.times), meter.smallest_gap, [*meter.sizes, resident()]
    records = [json.loads((cell.path(experiment) / "run.json").read_text()) for cell in cells]
    return Load(
        workers=workers,
        ended=dict(Counter(row.status for row in view.rows.values())),
        wall_seconds=wall,
        cell_seconds=sum(record["wall_seconds"] for record in records),
        tables=tables,
        gap_seconds=gap,
        early_bytes=sizes[len(sizes) // 10],
        late_bytes=sizes[-1],
    )


def parser() -> Parser:
    """Build the parser of the command."""
    result = Parser("runners.bench.launcher", str(__doc__))
    result.add_argument("--cells", type=int, default=2_000, help="default: 2000")
    result.add_argument("--workers", type=int, help="processes at a time; default: one per core")
    add_json(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    arguments = parser().parse_args(argv)
    check_json(arguments.json)
    asked = arguments.workers
    workers = default_workers("cpu") if asked is None else positive("workers", asked)
    with TemporaryDirectory() as folder:
        load = measure(positive("cells", arguments.cells), workers, Path(folder) / "load")
    print(load)
    write_record(arguments.json, manifest.machine(), {"load": [load]})
    return EXIT_OK if set(load.ended) == {"done"} else EXIT_FAILED


if __name__ == "__main__":
    run_main(main)
