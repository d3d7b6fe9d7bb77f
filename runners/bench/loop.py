"""The runner's whole training loop, timed: environment, actions, updates and evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import envs
from runners.bench.record import table
from runners.cells.grid import make_cells
from runners.cells.protocols import DIFFSR
from runners.cells.schema import PHASES
from runners.cells.settings import RunSettings
from runners.storage.rundir import RunDirectory
from runners.training.loop import Loop

LOOP_TASK = "mbbl/HalfCheetah"
LOOP_SECONDS = 6.0  # of updates in the loop that is timed


@dataclass(frozen=True)
class LoopSpeed:
    """A short real run through the runner; evaluation at the rate of protocol `diffsr`."""

    algo: str
    task: str
    steps: int  # that learned and were timed
    steps_per_second: float  # of all four phases
    phase_ms: dict[str, float]  # per step


@contextmanager
def training_loop(algo: str, task: str, device: str, warm: int, episodes: int) -> Iterator[Loop]:
    """Return the runner's loop over a cell without end, in a folder that goes away.

    Args:
        algo: what `algos.load` takes.
        task: task id.
        device: cpu, cuda or cuda:N.
        warm: random steps, for agents that take any.
        episodes: of an evaluation.
    """
    endless: dict[str, Any] = {"steps": 10**9, "eval_every": 10**9, "eval_episodes": episodes}
    protocol = replace(DIFFSR, name="bench", reduced=True, random_steps=warm, **endless)
    (cell,) = make_cells([algo], [task], [0], protocol)
    with TemporaryDirectory() as folder:
        directory = RunDirectory(cell, Path(folder))
        directory.lock()
        loop = Loop((cell,), (directory,), RunSettings(device))
        loop.start()
        yield loop
        loop.close()


def loop_steps(update_ms: float, period: int = 1) -> int:
    """Return steps of learning that take some `LOOP_SECONDS`, 20 to 1,000, in whole periods."""
    steps = min(1_000, max(20, LOOP_SECONDS * 1e3 / update_ms))
    return math.ceil(int(steps) / period) * period


def measure_loop(
    algo: str, steps: int, device: str, task: str = LOOP_TASK, episodes: int = DIFFSR.eval_episodes
) -> LoopSpeed:
    """Time `steps` steps from the first that all learned in, and one evaluation.

    Before them come random steps, an episode to learn from, and what else an agent waits for.
    """
    with training_loop(algo, task, device, envs.task(task).max_episode_steps, episodes) as loop:
        while not loop.metrics:
            loop.train_step()
        before = dict(loop.seconds)
        for _ in range(steps):
            loop.train_step()
        loop.evaluate()
        total = {name: loop.seconds[name] - before[name] for name in PHASES}
    share = dict.fromkeys(PHASES, steps) | {"eval": DIFFSR.eval_every}
    phase_ms = {name: 1e3 * total[name] / share[name] for name in PHASES}
    return LoopSpeed(algo, task, steps, 1e3 / sum(phase_ms.values()), phase_ms)


def loop_table(loops: Sequence[LoopSpeed]) -> str:
    """Speed of the loop and where its time goes, one agent a row."""
    form = "{algo}|{steps}|{steps_per_second:.1f}|{env:.3f}|{act:.3f}|{update:.3f}|{eval:.3f}"
    rows = (form.format(**asdict(loop), **loop.phase_ms).split("|") for loop in loops)
    return table("agent|steps|steps/s|env ms|act ms|update ms|eval ms", rows)
