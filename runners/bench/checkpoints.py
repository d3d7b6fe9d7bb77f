"""What checkpoints cost: time as a share of training, and bytes on the disk.

    python -m runners.bench.checkpoints --algos sac,diffsr

Agents have their default options, HalfCheetah's sizes and a filled memory. How fast they learn
says how many steps lie between two checkpoints. After a first checkpoint, which writes all,
that many new steps are stored before each of the checkpoints that are timed: the state is
gathered, written and flushed to the disk as in a run. Environments and actions are left out,
so that a run has fewer steps between two checkpoints, and less to write.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from algos.base.agent import Agent
from runners.bench.record import add_arguments, check_arguments, table, write_record
from runners.bench.work import ready_agent
from runners.cells.errors import EXIT_OK, UserError, positive
from runners.cells.settings import RunSettings
from runners.storage import checkpoint, manifest
from runners.storage.checkpoint import BLOCKS
from runners.terminal.cli import Parser, run_main
from runners.training.estimate import random_transition, time_learning
from runners.training.process import setup_process

STORED = 100_000  # transitions in memory before the first checkpoint
INTERVAL = RunSettings().checkpoint_seconds
LEARNING_SECONDS = 3.0  # for which learning is timed
MOST_STEPS = 20_000  # between two checkpoints, for agents that learn once in many steps
TARGET = 0.02  # of the training time


@dataclass(frozen=True)
class CheckpointCost:
    """Checkpoints of one agent at the default interval; medians over repeats."""

    algo: str
    stored: int  # transitions at the first checkpoint
    steps: int  # new ones before each further checkpoint
    ms: float  # a checkpoint, to the end of its last flush
    share: float  # of the interval
    mb: float  # written by a checkpoint, 10^6 bytes
    full_mb: float  # of all that it names, which a full rewrite would write
    first_ms: float  # the first checkpoint


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def _save(agent: Agent, folder: Path, step: int) -> tuple[float, int, int]:
    """Seconds of a checkpoint, bytes that it wrote, and bytes of all that it names."""
    before = _sizes(folder)
    start = time.perf_counter()
    path = checkpoint.save(folder, step, {"agent": agent.state_dict()})
    seconds = time.perf_counter() - start
    parts = (path.name, BLOCKS)
    after = {name: size for name, size in _sizes(folder).items() if name.startswith(parts)}
    written = sum(size for name, size in after.items() if name not in before)
    return seconds, written, sum(after.values())


def measure(
    algo: str, repeats: int, device: torch.device, folder: Path, stored: int = STORED
) -> CheckpointCost:
    """Time checkpoints of one agent.

    Args:
        algo: what `algos.load` takes.
        repeats: checkpoints that are timed.
        device: where the agent lives.
        folder: on the disk to write to; nothing stays there.
        stored: transitions in memory at the first checkpoint.
    """
    agent = ready_agent(algo, device, stored)
    seconds, _ = time_learning(agent, LEARNING_SECONDS)
    steps = min(MOST_STEPS, max(1, round(INTERVAL / seconds)))
    rng, rows = np.random.default_rng(2), []
    with TemporaryDirectory(dir=folder) as name:
        first, _, _ = _save(agent, Path(name), 0)
        for k in range(1, repeats + 1):
            for _ in range(steps):
                agent.observe(random_transition(agent.spaces, rng))
            rows.append(_save(agent, Path(name), k))
    took, written, whole = (median(column) for column in zip(*rows, strict=True))
    sizes = {"mb": written / 1e6, "full_mb": whole / 1e6}
    return CheckpointCost(
        algo, stored, steps, 1e3 * took, took / INTERVAL, **sizes, first_ms=1e3 * first
    )


def cost_table(costs: Sequence[CheckpointCost]) -> str:
    """Checkpoints, one agent a row."""
    form = "{algo}|{stored:,}|{steps:,}|{ms:.0f}|{share:.2%}|{mb:.1f}|{full_mb:.1f}|{first_ms:.0f}"
    head = f"agent|stored|new steps|ms|of {INTERVAL:g} s|MB written|MB in full|ms, the first"
    return table(head, (form.format(**asdict(cost)).split("|") for cost in costs))


def parser() -> Parser:
    """Build the parser of the command."""
    result = Parser("runners.bench.checkpoints", str(__doc__))
    add_arguments(result, repeats=5, samples="timed checkpoints")
    result.add_argument("--stored", type=int, default=STORED, metavar="N", help="steps in memory")
    result.add_argument(
        "--folder", type=Path, default=Path(), help="on the disk to write to; default: here"
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write the numbers if asked to."""
    options = parser().parse_args(argv)
    check_arguments(options, "state")
    positive("stored", options.stored)
    if not options.folder.is_dir():
        raise UserError(f"--folder {options.folder}: no such folder")
    setup_process()
    device = torch.device(options.device)
    print(f"{manifest.machine()['cpu']}, torch {torch.__version__}, one thread")
    costs = [
        measure(name, options.repeats, device, options.folder, options.stored)
        for name in options.algos
    ]
    print(f"\nCheckpoints every {INTERVAL:g} s; target: at most {TARGET:.0%} of the time")
    print(cost_table(costs))
    write_record(options.json, manifest.machine(), {"costs": costs})
    return EXIT_OK


if __name__ == "__main__":
    run_main(main)
