"""Run cells to their end in this process, and record in their run.json how they ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runners.cells.cell import Cell, Run
from runners.cells.settings import RunSettings
from runners.storage import checkpoint, manifest
from runners.storage.checkpoint import CheckpointError
from runners.storage.lease import LeaseLost
from runners.storage.rundir import RunDirectory
from runners.training.loop import DEFAULT, Interrupted, Loop, Progress, make_agent, reason_of
from runners.training.replica import part_of

LAST_GOOD = "last_good"
"""Folder of a seed that ended alone: the newest checkpoint of its group from before that."""


class _Record:
    """The run.json of one cell while it runs."""

    def __init__(
        self, cell: Cell, directory: RunDirectory, run: Run, settings: RunSettings
    ) -> None:
        self.directory = directory
        self.fresh = manifest.build(cell, settings.device) | {"replicas": [c.seed for c in run]}
        self.values: dict[str, Any] = directory.read_manifest() or self.fresh
        self.before = float(self.values["wall_seconds"])
        self.began = time.monotonic()

    def begin(self, resumed: bool) -> None:
        """Training begins, or goes on."""
        if resumed:
            self.values["resumed"] += 1
            self._keep_earlier()
        else:
            self.values, self.before = self.fresh, 0.0
        self.write("running", None)

    def _keep_earlier(self) -> None:
        """Bring the circumstances up to date, and keep those of before that were others."""
        for name in manifest.CIRCUMSTANCES:
            before, now = self.values[name], self.fresh[name]
            if before != now:
                self.values.setdefault("earlier", {}).setdefault(name, []).append(before)
                self.values[name] = now
                if name == "precision":
                    self.notice(f"begun in {before}, went on in {now}")

    def write(self, status: str, reason: str | None) -> None:
        """Write the file."""
        seconds = round(self.before + time.monotonic() - self.began, 1)
        self.values.update(status=status, reason=reason, wall_seconds=seconds)
        self.directory.write_manifest(self.values)

    def finish(self, status: str, reason: str | None = None) -> None:
        """Record that it ended, or was stopped."""
        self.values["ended"] = manifest.now()
        self.write(status, reason)

    def give_up(self, status: str, reason: str) -> None:
        """Record that it ended badly; a disk that is full must not hide why."""
        try:
            self.finish(status, reason)
        except OSError:
            self.values.update(status=status, reason=reason)

    def notice(self, text: str) -> None:
        """Keep what a person should know of this run, once."""
        notices = self.values.setdefault("notices", [])
        if text not in notices:
            notices.append(text)


class _Session:
    """A run whose cells are claimed by this process."""

    def __init__(
        self,
        run: Run,
        directories: list[RunDirectory],
        settings: RunSettings,
        should_stop: Callable[[], bool],
        report: Callable[[Progress], None],
    ) -> None:
        self.run, self.directories, self.settings = run, directories, settings
        self.should_stop, self.report = should_stop, report
        self.records = [_Record(c, d, run, settings) for c, d in zip(run, directories, strict=True)]
        self.ended: set[int] = set()

    def go(self) -> list[tuple[str, str | None]]:
        """Train to the end; returns status and reason of each cell."""
        loop: Loop | None = None
        try:
            loop = Loop(self.run, self.directories, self.settings, self.should_stop, self._watch)
            self.loop = loop
            resumed = loop.start()
            for replica, record in zip(loop.replicas, self.records, strict=True):
                if replica.end is None:
                    record.begin(resumed)
            loop.run()
            self._note_ends()
            self._complete()
        except Interrupted:
            for replica, record in zip(self.loop.replicas, self.records, strict=True):
                if replica.end is None:
                    record.finish("running")
            raise
        except CheckpointError:
            raise
        except LeaseLost:
            return [("running", None)] * len(self.run)
        except Exception as error:
            for r, record in enumerate(self.records):
                if r not in self.ended and record.values["status"] != "done":
                    record.give_up("failed", reason_of(error))
        finally:
            if loop is not None:
                loop.close()
        # Not from the files: on a full disk they may not have been written.
        return [(str(r.values["status"]), r.values["reason"]) for r in self.records]

    def _watch(self, progress: Progress) -> None:
        if progress.notice is not None:
            for record in self.records:
                record.notice(progress.notice)
        self._note_ends()
        self.report(progress)

    def _note_ends(self) -> None:
        """Record the seeds that have ended alone, as soon as they have."""
        for r, (replica, record) in enumerate(zip(self.loop.replicas, self.records, strict=True)):
            if replica.end is None or r in self.ended:
                continue
            self.ended.add(r)
            if replica.end[0] == "done":
                continue
            if len(self.run) > 1:  # the group's checkpoints go on without it
                with contextlib.suppress(OSError):  # nor may a full disk end the others
                    keep(self.loop.checkpoints, replica.directory.path / LAST_GOOD)
            record.give_up(*replica.end)

    def _complete(self) -> None:
        """Write the policies and the last words of the seeds that got to the last step."""
        single = make_agent(self.run[:1], "cpu").policy_state() if len(self.run) > 1 else None
        for r, (replica, record) in enumerate(zip(self.loop.replicas, self.records, strict=True)):
            if replica.end is not None:
                continue
            directory = replica.directory
            directory.restore(directory.text)  # whole and on the disk before it counts as done
            policy = self.loop.agent.policy_state()
            state = policy if single is None else part_of(policy, single, r)
            checkpoint.remove(directory.policy)  # of a process that was killed before it was done
            checkpoint.save(directory.policy, self.loop.step, state)
            record.finish("done")
        # Not before: a kill in between must not leave an unfinished cell without checkpoint.
        if len(self.run) > 1 or self.loop.active:
            checkpoint.remove(self.loop.checkpoints)


def keep(checkpoints: Path, target: Path) -> None:
    """Copy all checkpoints, by links where the file system has them: they cost nothing."""
    shutil.rmtree(target, ignore_errors=True)
    for source in checkpoints.glob("*/**/*"):
        if source.is_file() and source.relative_to(checkpoints).parts[0] != "partial":
            copy = target / source.relative_to(checkpoints)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, copy)
            except OSError:
                shutil.copy2(source, copy)


def run_cells(
    run: Run,
    experiment: Path,
    settings: RunSettings = DEFAULT,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[tuple[str, str | None]]:
    """Run the cells of one run to their end and record how they ended in run.json.

    Returns:
        The status of each: `done`, `failed` or `diverged`; `running` if another process has
        one of the cells. Beside it the reason, if it needs one.

    Raises:
        Interrupted: it was asked to stop; the same call continues it.
        CheckpointError: its checkpoint is damaged; nothing was changed.
        UserError: a folder holds a run with other values.
    """
    directories = [RunDirectory(cell, experiment) for cell in run]
    if all(directory.status() == "done" for directory in directories):
        return [("done", None)] * len(run)
    locked: list[RunDirectory] = []
    try:
        for directory in directories:
            if not directory.lock():
                return [("running", None)] * len(run)
            locked.append(directory)
        # Another process may have ended them just before the lock.
        if all(directory.status() == "done" for directory in directories):
            return [("done", None)] * len(run)
        return _Session(run, directories, settings, should_stop, report).go()
    finally:
        for directory in locked:
            directory.unlock()
            if directory.status() == "done" and not any(directory.checkpoints.glob("step-*")):
                checkpoint.remove(directory.checkpoints)


def run_cell(
    cell: Cell,
    experiment: Path,
    settings: RunSettings = DEFAULT,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> str:
    """Run one cell alone; returns its status, see `run_cells`."""
    return run_cells((cell,), experiment, settings, should_stop, report)[0][0]
