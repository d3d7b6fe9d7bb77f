"""Slurm launcher: runs become jobs of an array, through submitit; Slurm owns the queue.

A job whose time is up saves and is queued again, one that is preempted saves and is queued
again by Slurm, and both go on from the checkpoint. The sweep only watches: when it is stopped
the jobs stay, and the same command follows them again.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from runners.cells.cell import Run
from runners.cells.errors import EXIT_AGAIN, UserError
from runners.cells.files import write_atomic
from runners.cells.settings import RunSettings
from runners.launchers.follow import Follower
from runners.launchers.remote import Needs, Origin, run_watched
from runners.storage.lease import BEAT_SECONDS, LEASE_SECONDS
from runners.terminal.progress import View
from runners.training.worker import End, Message, StopFlag

if TYPE_CHECKING:
    from submitit import Executor, Job
    from submitit.core.utils import DelayedSubmission

FOLDER = "slurm"  # of an experiment
MOST_RUNS = 1000  # of an array: Slurm's own default (MaxArraySize)
MOST_REQUEUES = 10_000  # a run may take any number of time limits
TICK_SECONDS = 1.0
QUEUE_SECONDS = 10.0


class SlurmLauncher:
    """Runs cells as Slurm jobs.

    Args:
        settings: device, checkpoints and the like, for every job.
        needs: what each job takes of a machine; whole cores and GPUs.
        minutes: time limit of a job; a run that takes longer goes on in the next one.
        partition: where to queue; None is the cluster's default.
        at_once: most jobs that run at a time; None leaves it to Slurm.
        extra: other options of sbatch, like `{"account": "mine"}`.

    Raises:
        UserError: submitit or Slurm is missing, or a value is impossible.
    """

    cluster = "slurm"
    stopped = (
        "the jobs stay in the queue: the same command follows them again, "
        "scancel --name=levelfield ends them"
    )

    def __init__(
        self,
        settings: RunSettings,
        needs: Needs,
        minutes: int,
        partition: str | None = None,
        at_once: int | None = None,
        extra: Mapping[str, str] = {},
    ) -> None:
        needs.check(settings.device)
        for name, count in (("cpus", needs.cpus), ("gpus", needs.gpus)):
            if count != int(count):
                raise UserError(f"--{name}-per-run {count:g}: Slurm gives out whole ones")
        self.settings = settings
        self.parameters = {
            "name": "levelfield",
            "timeout_min": minutes,
            "tasks_per_node": 1,
            "cpus_per_task": int(needs.cpus),
            "gpus_per_node": int(needs.gpus) or None,
            "mem_gb": needs.memory_gb,
            "slurm_partition": partition,
            "slurm_array_parallelism": at_once or MOST_RUNS,
            "slurm_additional_parameters": {"requeue": True, **extra},
        }
        self._check_installed()

    def _check_installed(self) -> None:
        try:
            import submitit  # noqa: F401
        except ModuleNotFoundError:
            raise UserError(
                "--launcher slurm: submitit is not installed; pip install -e '.[cluster]'"
            ) from None
        if shutil.which("sbatch") is None:
            raise UserError("--launcher slurm: there is no Slurm on this machine (no sbatch)")

    def run(self, runs: Sequence[Run], experiment: Path, view: View) -> bool:
        """Run all; returns False if it was asked to stop before the end.

        Raises:
            UserError: Slurm refuses the jobs.
        """
        with StopFlag() as stop:  # from before the first job, lest its number is lost
            return self._submit_and_watch(runs, experiment, view, stop)

    def _submit_and_watch(
        self, runs: Sequence[Run], experiment: Path, view: View, stop: StopFlag
    ) -> bool:
        self.follower = Follower(runs, experiment.absolute(), view)
        self.folder = self.follower.experiment / FOLDER
        self.executor = self._executor()
        self.jobs: dict[str, tuple[Run, Job[Message]]] = {}
        self.task = RunJob(self.settings, Origin.here(runs, code=False))
        self._find_jobs(runs)
        found = {run[0].name for run, _ in self.jobs.values()}
        rest = [run for run in runs if run[0].name not in found]
        self._submit([run for run in rest if not self.follower.is_elsewhere(run)])
        self._looked, self._missing = time.monotonic(), set[str]()
        while (self.jobs or self.follower.elsewhere) and not stop():
            time.sleep(TICK_SECONDS)
            self._collect()
            self._submit(self.follower.poll())
            view.refresh()
        return not (self.jobs or self.follower.elsewhere)

    def _executor(self) -> Executor:
        from submitit import AutoExecutor

        executor = AutoExecutor(self.folder, self.cluster, slurm_max_num_timeout=MOST_REQUEUES)
        given = {key: value for key, value in self.parameters.items() if value is not None}
        executor.update_parameters(**given)
        return executor

    def _queued(self) -> set[str] | None:
        """Ids of this user's jobs that wait or run; None if Slurm gives no answer."""
        answer = _squeue("--me", "--array", "--format=%i")
        return None if answer is None else set(answer)

    def _find_jobs(self, runs: Iterable[Run]) -> None:
        """Take up the jobs of earlier sweeps that are still in the queue."""
        file = self.folder / "jobs.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        queued = self._queued() if known else set()
        if queued is None:
            raise UserError("--launcher slurm: squeue gives no answer; try again later")
        self.names = {number: names for number, names in known.items() if number in queued}
        by_names = {tuple(cell.name for cell in run): run for run in runs}
        for number, names in self.names.items():
            if tuple(names) in by_names:
                job = self.executor.job_class(self.folder, number)
                self._follow(by_names[tuple(names)], job)

    def _follow(self, run: Run, job: Job[Message]) -> None:
        self.jobs[job.job_id] = run, job
        self.follower.follow(run)

    def _submit(self, runs: Sequence[Run]) -> None:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        for first in range(0, len(runs), MOST_RUNS):
            part = runs[first : first + MOST_RUNS]
            where = [self.follower.experiment] * len(part)
            try:
                # What sbatch prints is in the error too.
                with contextlib.redirect_stderr(io.StringIO()):
                    jobs = self.executor.map_array(self.task, part, where)
            except (FailedJobError, FailedSubmissionError) as error:
                reason = "; ".join(str(error).split("\n")) or "no reason given"
                raise UserError(f"--launcher slurm: {reason}") from None
            for run, job in zip(part, jobs, strict=True):
                self.names[job.job_id] = [cell.name for cell in run]
                self._follow(run, job)
            write_atomic(self.folder / "jobs.json", json.dumps(self.names, indent=1) + "\n")

    def _collect(self) -> None:
        """Take in the results that jobs have left, and find those that left none."""
        written = {path.name for path in self.folder.iterdir()}
        for number, (run, job) in list(self.jobs.items()):
            if job.paths.result_pickle.name in written:
                del self.jobs[number]
                self._take(run, job)
        if time.monotonic() - self._looked >= QUEUE_SECONDS:
            self._looked = time.monotonic()
            self._find_lost()

    def _take(self, run: Run, job: Job[Message]) -> None:
        outcome, result = job._get_outcome_and_result()  # `result` raises pages of text
        if outcome == "success":
            self.follower.end(run, result)
        else:
            reason = str(result).strip().splitlines()[-1]
            self.follower.mark_failed(run, f"Slurm job {job.job_id}: {reason}")

    def _find_lost(self) -> None:
        """Jobs that have left the queue: twice, since a result may take a while to be seen."""
        queued = self._queued()
        if queued is None:
            return
        missing = self.jobs.keys() - queued
        for number in missing & self._missing:
            run, job = self.jobs.pop(number)
            log = job.paths.stderr
            self.follower.mark_failed(run, f"Slurm job {number} ended without a result; see {log}")
        self._missing = missing


class RunJob:
    """What a job does.

    Args:
        settings: device, checkpoints and the like.
        origin: the machine of the sweep.
    """

    def __init__(self, settings: RunSettings, origin: Origin) -> None:
        self.settings, self.origin = settings, origin

    def __call__(self, run: Run, experiment: Path) -> Message:
        """Do a run, or save it and leave the process when Slurm asks to end."""
        problem = self.origin.difference()
        if problem is not None:
            end = End("refused", f"this machine {problem}")
            return Message(0, (None,) * len(run), ends=(end,) * len(run))
        stop = StopFlag()
        requeue = Requeue(stop)
        last = self._take_over(run, experiment, stop)
        if any(end.status == "stopped" for end in last.ends or ()):
            requeue()
            sys.exit(EXIT_AGAIN)  # Slurm queues a preempted job itself; one cancelled stays ended
        return last

    def _take_over(self, run: Run, experiment: Path, stop: StopFlag) -> Message:
        """Do the run; if its machine died before, wait until the claim of that has run out."""
        begun = time.monotonic()
        while True:
            last = run_watched(run, experiment, self.settings, stop)
            free = all(end.status != "elsewhere" for end in last.ends or ())
            if free or stop() or time.monotonic() - begun > LEASE_SECONDS + BEAT_SECONDS:
                return last
            time.sleep(1.0)

    def checkpoint(self, run: Run, experiment: Path) -> DelayedSubmission:
        """Return what submitit queues again: the same, since a run saves itself."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self, run, experiment)


class Requeue:
    """Submitit's answer to its signal, put off until the run has saved.

    Its handler puts the job back into the queue and ends the process at once. Slurm sends the
    signal some time before a job's time is up.

    Args:
        stop: raised by the signal.
    """

    def __init__(self, stop: StopFlag) -> None:
        from submitit import JobEnvironment

        self.stop, self.asked = stop, False
        self.job = JobEnvironment().job_id
        self.number = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
        self.submitit: Any = signal.getsignal(self.number)
        signal.signal(self.number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = self.stop.raised = True

    def __call__(self) -> None:
        """Queue the job again if nobody else does; then this does not return."""
        # Where a preempted job has a grace time, one that ends within it is not queued again.
        # One that was cancelled, or that Slurm queues itself, is no longer in this state.
        if self.asked or _squeue(f"--jobs={self.job}", "--format=%T") == ["RUNNING"]:
            self.submitit(self.number, None)


def _squeue(*options: str) -> list[str] | None:
    """Answer of squeue, in words; None if there is none."""
    command = ["squeue", "--noheader", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split()
