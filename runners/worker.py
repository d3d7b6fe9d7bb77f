"""The body of a process that runs one cell and tells its parent how it goes."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from runners.cli import EXIT_AGAIN, EXIT_FAILED, EXIT_OK, UserError
from runners.process import How
from runners.rundir import Cell, RunDirectory

REPORT_SECONDS = 0.25


@dataclass(frozen=True)
class Message:
    """What a worker sends: progress, or at last how the cell ended.

    Attributes:
        step: environment steps done.
        last_return: mean return of the last evaluation.
        status: None while running, else `done`, `failed`, `diverged`, `elsewhere`
            (another process has the cell), `stopped` (saved, to be continued) or
            `refused` (its files cannot be used; nothing was changed).
        reason: one line for a status that needs one.
    """

    step: int
    last_return: float | None
    status: str | None = None
    reason: str | None = None


class StopFlag:
    """True once this process was asked to end by SIGINT or SIGTERM, or lost its parent."""

    def __init__(self) -> None:
        self.raised = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._raise)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.raised = True

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.raised


def work(cell: Cell, experiment: Path, how: How, pipe: Connection) -> None:
    """Run one cell in this process, then leave with an exit code.

    Args:
        cell: what to run.
        experiment: its experiment folder.
        how: device, checkpoints and the like.
        pipe: where messages go; if the parent is gone the cell is saved and ended.
    """
    from runners.process import setup_process

    setup_process()
    from runners.checkpoint import CheckpointError
    from runners.loop import Interrupted, Progress, run_cell

    stop = StopFlag()
    last = Progress(0, None)
    sent = 0.0

    def send(status: str | None = None, reason: str | None = None) -> None:
        try:
            pipe.send(Message(last.step, last.last_return, status, reason))
        except OSError:
            stop.raised = True

    def report(progress: Progress) -> None:
        nonlocal last, sent
        last = progress
        if time.monotonic() - sent >= REPORT_SECONDS:
            sent = time.monotonic()
            send()

    try:
        status = run_cell(cell, experiment, how, stop, report)
    except Interrupted:
        send("stopped")
        sys.exit(EXIT_AGAIN)
    except (CheckpointError, UserError, OSError) as error:
        send("refused", str(error))
        sys.exit(EXIT_FAILED)
    send(*outcome(cell, experiment, status))
    sys.exit(EXIT_OK if status == "done" else EXIT_FAILED)


def outcome(cell: Cell, experiment: Path, status: str) -> tuple[str, str | None]:
    """What to show for the status that `run_cell` returned, and its reason."""
    if status == "running":
        return "elsewhere", "another process is running this cell"
    manifest = RunDirectory(cell, experiment).read_manifest() or {}
    reason = manifest.get("reason")
    return status, None if reason is None else str(reason)
