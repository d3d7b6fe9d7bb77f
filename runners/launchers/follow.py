"""How runs go that other processes do, read from the files of the experiment folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from runners.cells.cell import Run
from runners.storage.lease import holder, taken
from runners.storage.rundir import RunDirectory
from runners.terminal.progress import View
from runners.training.worker import Message

POLL_SECONDS = 1.0
MOST_LOOKS = 200  # in a poll; of 1,000 runs each is read every five seconds
ENDED = ("done", "failed", "diverged")


class Follower:
    """Feeds the rows of runs that are done elsewhere, by other sweeps or by a cluster.

    Args:
        runs: all runs of the sweep.
        experiment: their folder.
        view: the rows.

    Attributes:
        elsewhere: names of the runs that other sweeps have.
    """

    def __init__(self, runs: Sequence[Run], experiment: Path, view: View) -> None:
        self.experiment, self.view = experiment, view
        self.elsewhere: set[str] = set()
        self._turn: dict[str, Run] = {}  # whose turn it is to be read comes first
        self._before = {run[0].name: self._ends(run) for run in runs}
        self._polled = 0.0

    def follow(self, run: Run) -> None:
        """Read the progress of a run that was given to a cluster."""
        self._turn[run[0].name] = run

    def is_elsewhere(self, run: Run) -> bool:
        """Whether another sweep has the run, or has ended it since this one began."""
        name = run[0].name
        ends = self._ends(run)
        if ends is not None and ends != self._before[name]:
            self.elsewhere.discard(name)
            self.mark_failed(run, "")
            return True
        if any(taken(directory.checkpoints) for directory in self._directories(run)):
            self._give_up(run)
            return True
        if name in self.elsewhere:
            self.elsewhere.discard(name)
            self._show(run, "waiting")
        return False

    def poll(self) -> list[Run]:
        """Read the progress of some runs, at most once a second.

        Returns:
            Runs that another sweep had and has left unfinished, to be done here.
        """
        if time.monotonic() - self._polled < POLL_SECONDS:
            return []
        self._polled = time.monotonic()
        freed = []
        for name in list(islice(self._turn, MOST_LOOKS)):
            run = self._turn.pop(name)
            if name in self.elsewhere:
                if not self.is_elsewhere(run):
                    freed.append(run)
                    continue
            elif all(self.view.row(cell).ended for cell in run):
                continue
            self._turn[name] = run
            self._read_progress(run)
        return freed

    def end(self, run: Run, last: Message) -> None:
        """Take in the last words of a run's process."""
        ends = last.ends or ()
        if any(end.status == "elsewhere" for end in ends):  # it was too late for the claim
            self._give_up(run)
            return
        for cell, last_return, end in zip(run, last.returns, ends, strict=True):
            row = self.view.row(cell)
            if last.step:  # else it was at its end when the process began
                row.update(last.step, last_return)
            row.end(end.status, end.reason or last.notice)

    def leave(self, run: Run) -> None:
        """Take a run back: what had begun of it is saved as of its last checkpoint."""
        for row in (self.view.row(cell) for cell in run):
            if row.status == "running":
                row.end("stopped", None)

    def mark_failed(self, run: Run, reason: str) -> None:
        """Show what a run whose process is gone left in run.json, else that it failed."""
        for cell, directory in zip(run, self._directories(run), strict=True):
            record = directory.read_manifest()
            if record is not None and record["status"] in ENDED:
                self.view.row(cell).end(record["status"], record["reason"])
                continue
            self.view.row(cell).end("failed", reason)
            if record is not None:
                directory.write_manifest(record | {"status": "failed", "reason": reason})

    def _give_up(self, run: Run) -> None:
        self.elsewhere.add(run[0].name)
        self._turn[run[0].name] = run
        self._show(run, "elsewhere")

    def _show(self, run: Run, status: str) -> None:
        for cell in run:
            self.view.row(cell).status = status

    def _read_progress(self, run: Run) -> None:
        for cell, directory in zip(run, self._directories(run), strict=True):
            row, seen = self.view.row(cell), holder(directory.checkpoints)
            if seen is None or not seen.alive:
                continue
            if row.status == "waiting":
                row.begin()
            # Steps reach the file in beats: without a change there is no new measurement.
            if (seen.step, seen.last_return) != (row.step, row.last_return):
                row.update(seen.step, seen.last_return)

    def _ends(self, run: Run) -> list[object] | None:
        """When and how the cells of a run ended; None if one of them has not."""
        records = [directory.read_manifest() or {} for directory in self._directories(run)]
        if not all(record.get("status") in ENDED for record in records):
            return None
        return [(record["status"], record.get("ended")) for record in records]

    def _directories(self, run: Run) -> list[RunDirectory]:
        return [RunDirectory(cell, self.experiment) for cell in run]
