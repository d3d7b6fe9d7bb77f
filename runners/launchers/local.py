"""Local launcher: one isolated single-threaded process per run, some at a time.

Workers are forked from a server process that has already imported torch, so starting
one costs milliseconds, and nothing that a run does can reach the next one. A worker that
shows no progress for too long is killed and its run tried again. Several sweeps may share an
experiment folder, also from several machines: runs that another sweep has are waited for, and
taken over if its worker dies.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from runners.cells.cell import Run
from runners.cells.settings import RunSettings
from runners.launchers.follow import Follower
from runners.terminal.progress import Row, View
from runners.training.worker import Message, StopFlag, work

TICK_SECONDS = 0.2
TRIES = 3
"""How often a run is begun whose worker stalls."""
# The first optimiser of a process imports torch._dynamo, which takes about two seconds.
PRELOAD = [
    "runners.launchers.choose",
    "runners.terminal.machine",
    "runners.training.session",
    "torch._dynamo",
    "runners.launchers.warm",
]


@dataclass
class _Job:
    """A run that is going on in a process of its own."""

    run: Run
    rows: list[Row]
    process: ForkServerProcess
    pipe: Connection
    heard: float = field(default_factory=time.monotonic)
    stalled: bool = False
    told: bool = False  # how it ended: all that is left is to exit


class LocalLauncher:
    """Runs cells on this machine.

    Args:
        workers: processes at a time.
        settings: device, checkpoints and the like, for every worker.
    """

    stopped = "stopped and saved; run the same command to go on"

    def __init__(self, workers: int, settings: RunSettings) -> None:
        self.workers, self.settings = workers, settings
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)

    def run(self, runs: Sequence[Run], experiment: Path, view: View) -> bool:
        """Run all; returns False if it was asked to stop before the end."""
        self.experiment, self.view = experiment, view
        self.follower = Follower(runs, experiment, view)
        self.waiting = deque(runs)
        self.jobs: list[_Job] = []
        self.stalls: dict[str, int] = {}
        with StopFlag() as stop:
            return self._work_off(stop)

    def _work_off(self, stop: StopFlag) -> bool:
        asked = False
        while self.jobs or ((self.waiting or self.follower.elsewhere) and not asked):
            if not asked:
                self._fill()
            wait([job.pipe for job in self.jobs], timeout=TICK_SECONDS)
            for job in list(self.jobs):
                self._attend(job, asked)
            self.waiting.extend(self.follower.poll())
            if stop() and not asked:
                asked = True
                for job in self.jobs:
                    job.process.terminate()
            self.view.refresh()
        return not asked

    def _fill(self) -> None:
        """Start runs while there is room, but those that another sweep has or had."""
        while self.waiting and sum(not job.told for job in self.jobs) < self.workers:
            run = self.waiting.popleft()
            if not self.follower.is_elsewhere(run):
                self.jobs.append(self._start(run))

    def _start(self, run: Run) -> _Job:
        receiver, sender = self.context.Pipe(duplex=False)
        arguments = (run, self.experiment, self.settings, sender)
        process = self.context.Process(target=work, args=arguments, name=run[0].name)
        process.start()
        sender.close()  # so that the pipe ends when the worker does
        rows = [self.view.row(cell) for cell in run]
        for row in rows:
            row.begin()
        return _Job(run, rows, process, receiver)

    def _attend(self, job: _Job, asked: bool) -> None:
        self._read(job)
        if not job.process.is_alive():
            self._read(job)
            self._end(job, asked)
            self.jobs.remove(job)
        elif time.monotonic() - job.heard > self.settings.step_timeout:
            job.stalled = True
            job.process.kill()

    def _read(self, job: _Job) -> None:
        try:
            while job.pipe.poll():
                message = job.pipe.recv()
                assert isinstance(message, Message)
                job.heard = time.monotonic()
                if message.ends is not None:
                    job.told = True
                    self.follower.end(job.run, message)
                    continue
                for row, last_return in zip(job.rows, message.returns, strict=True):
                    row.update(message.step, last_return)
                    row.reason = message.notice
        except EOFError:
            return

    def _end(self, job: _Job, asked: bool) -> None:
        """End the row of a worker that died without a word with its exit code."""
        job.process.join()
        job.pipe.close()
        if job.told:
            return
        if asked and job.process.exitcode == -signal.SIGTERM:
            for row in job.rows:
                row.end("stopped", None)  # before it had begun
            return
        reason = f"worker process died ({_exit_text(job.process.exitcode)})"
        if job.stalled:
            name = job.run[0].name
            tries = self.stalls[name] = self.stalls.get(name, 0) + 1
            reason = (
                f"no step within {self.settings.step_timeout:g} s (--step-timeout), {tries} times"
            )
            if tries < TRIES and not asked:
                self.waiting.append(job.run)
                return
        # It may have died after its last words, or another sweep was quick to take it over.
        if not self.follower.is_elsewhere(job.run):
            self.follower.mark_failed(job.run, reason)


def _exit_text(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "signal 9: killed, or out of memory"
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
