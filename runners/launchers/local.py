"""Local launcher: one isolated single-threaded process per cell, some at a time.

Workers are forked from a server process that has already imported torch, so starting
one costs milliseconds, and nothing that a cell does can reach the next one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from runners.process import THREAD_ENVIRONMENT, How
from runners.progress import Row, View
from runners.rundir import Cell, RunDirectory
from runners.worker import Message, StopFlag, work

TICK_SECONDS = 0.2
# The first optimiser of a process imports torch._dynamo, which takes about two seconds.
PRELOAD = ["runners.worker", "runners.loop", "torch._dynamo"]


@dataclass
class _Job:
    """A cell that is running."""

    row: Row
    process: ForkServerProcess
    pipe: Connection


class LocalLauncher:
    """Runs cells on this machine.

    Args:
        workers: processes at a time.
        how: device, checkpoints and the like, for every worker.
    """

    def __init__(self, workers: int, how: How) -> None:
        self.workers, self.how = workers, how
        os.environ.update(THREAD_ENVIRONMENT)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)

    def run(self, cells: Sequence[Cell], experiment: Path, view: View) -> bool:
        """Run all cells; returns False if it was asked to stop before the end."""
        stop = StopFlag()
        waiting, running = deque(cells), list[_Job]()
        asked = False
        while running or (waiting and not asked):
            while waiting and len(running) < self.workers and not asked:
                running.append(self._start(waiting.popleft(), experiment, view))
            wait([job.pipe for job in running], timeout=TICK_SECONDS)
            for job in list(running):
                self._read(job)
                if not job.process.is_alive():
                    self._read(job)
                    self._end(job, experiment, asked)
                    running.remove(job)
            if stop() and not asked:
                asked = True
                for job in running:
                    job.process.terminate()
            view.refresh()
        return not asked

    def _start(self, cell: Cell, experiment: Path, view: View) -> _Job:
        receiver, sender = self.context.Pipe(duplex=False)
        arguments = (cell, experiment, self.how, sender)
        process = self.context.Process(target=work, args=arguments, name=cell.name)
        process.start()
        sender.close()  # so that the pipe ends when the worker does
        row = view.row(cell)
        row.begin()
        return _Job(row, process, receiver)

    def _read(self, job: _Job) -> None:
        try:
            while job.pipe.poll():
                message = job.pipe.recv()
                assert isinstance(message, Message)
                job.row.update(message.step, message.last_return)
                if message.status is not None:
                    job.row.end(message.status, message.reason)
        except EOFError:
            return

    def _end(self, job: _Job, experiment: Path, asked: bool) -> None:
        """A worker that died without a word leaves a row with its exit code."""
        job.process.join()
        job.pipe.close()
        if job.row.ended:
            return
        if asked and job.process.exitcode == -signal.SIGTERM:
            job.row.end("stopped", None)  # before it had begun
            return
        reason = f"worker process died ({_exit_text(job.process.exitcode)})"
        directory = RunDirectory(job.row.cell, experiment)
        record = directory.read_manifest()
        if record is not None and record["status"] != "running":
            job.row.end(record["status"], record["reason"])  # it died after it had ended the cell
            return
        job.row.end("failed", reason)
        if record is not None:
            directory.write_manifest(record | {"status": "failed", "reason": reason})


def _exit_text(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
