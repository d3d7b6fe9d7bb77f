"""The body of a process that runs some seeds and tells its parent how it goes."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from runners.cells.cell import Run
from runners.cells.errors import EXIT_AGAIN, EXIT_FAILED, EXIT_OK, UserError
from runners.cells.settings import RunSettings
from runners.training.process import setup_process

if TYPE_CHECKING:
    from runners.training.loop import Progress

REPORT_SECONDS = 0.25


@dataclass(frozen=True)
class End:
    """How a cell ended.

    Attributes:
        status: `done`, `failed`, `diverged`, `elsewhere` (another process has the cell),
            `stopped` (saved, to be continued) or `refused` (its files cannot be used;
            nothing was changed).
        reason: one line for a status that needs one.
    """

    status: str
    reason: str | None = None


@dataclass(frozen=True)
class Message:
    """What a worker sends: progress, or at last how the cells ended.

    Attributes:
        step: environment steps done.
        returns: mean return of each seed's last evaluation.
        notice: what a person should know, if anything.
        ends: None while running.
    """

    step: int
    returns: tuple[float | None, ...]
    notice: str | None = None
    ends: tuple[End, ...] | None = None


class StopFlag:
    """True once this process was asked to end by SIGINT or SIGTERM, or lost its parent.

    As a context it gives the signals back at its end.
    """

    def __init__(self) -> None:
        self.raised = False
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._raise) for number in numbers}

    def __enter__(self) -> StopFlag:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.raised = True

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.raised


def run_here(
    run: Run,
    experiment: Path,
    settings: RunSettings,
    should_stop: Callable[[], bool],
    report: Callable[[Progress], None],
) -> list[End]:
    """Run cells to their end in this process; what goes wrong with them is in the answer.

    Args:
        run: what to run.
        experiment: its experiment folder.
        settings: device, checkpoints and the like.
        should_stop: asked at every step; True saves and ends.
        report: called with the progress at every step.
    """
    setup_process()
    from runners.storage.checkpoint import CheckpointError
    from runners.training.loop import Interrupted
    from runners.training.session import run_cells

    try:
        ends = run_cells(run, experiment, settings, should_stop, report)
    except Interrupted:
        return [End("stopped", "saved; run the same command to go on")] * len(run)
    except (CheckpointError, UserError, OSError) as error:
        return [End("refused", str(error))] * len(run)
    elsewhere = End("elsewhere", "another process is running this cell")
    return [elsewhere if status == "running" else End(status, reason) for status, reason in ends]


def work(run: Run, experiment: Path, settings: RunSettings, pipe: Connection) -> None:
    """Run cells in this process, then leave with an exit code.

    Args:
        run: what to run.
        experiment: its experiment folder.
        settings: device, checkpoints and the like.
        pipe: where messages go; if the parent is gone the run is saved and ended.
    """
    stop = StopFlag()
    last = Message(0, (None,) * len(run))
    sent = 0.0

    def send(message: Message) -> None:
        nonlocal last, sent
        last, sent = message, time.monotonic()
        try:
            pipe.send(message)
        except OSError:
            stop.raised = True

    def report(progress: Progress) -> None:
        nonlocal last
        last = Message(progress.step, progress.returns, progress.notice)
        if time.monotonic() - sent >= REPORT_SECONDS:
            send(last)

    ends = tuple(run_here(run, experiment, settings, stop, report))
    send(Message(last.step, last.returns, last.notice, ends))
    statuses = {end.status for end in ends}
    if "stopped" in statuses:
        sys.exit(EXIT_AGAIN)
    sys.exit(EXIT_OK if statuses == {"done"} else EXIT_FAILED)
