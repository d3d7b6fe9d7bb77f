"""What Ray and Slurm share: what a run needs, and how it is done on another machine."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.cells.cell import Run
from runners.cells.errors import EXIT_FAILED, UserError
from runners.cells.settings import RunSettings
from runners.storage import manifest
from runners.training.worker import Message, run_here

if TYPE_CHECKING:
    from runners.training.loop import Progress

WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Needs:
    """What one run takes of a machine.

    Attributes:
        cpus: cores; a run computes on one thread.
        gpus: GPUs, or a part of one.
        memory_gb: main memory in GB; None leaves it to the cluster's own rule.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float | None = None

    def check(self, device: str) -> None:
        """Complain about impossible needs, and about those that do not fit the device.

        Raises:
            UserError: one line.
        """
        if not self.cpus > 0:
            raise UserError(f"--cpus-per-run {self.cpus:g}: must be more than 0")
        if not self.gpus >= 0:
            raise UserError(f"--gpus-per-run {self.gpus:g}: must be 0 or more")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise UserError(f"--memory-per-run {self.memory_gb:g}: must be more than 0")
        if device not in ("cpu", "cuda"):
            raise UserError(f"--device {device}: a cluster gives out its GPUs itself; say cuda")
        if (device == "cuda") != (self.gpus > 0):
            valid = "more than 0" if device == "cuda" else "0"
            raise UserError(f"--gpus-per-run {self.gpus:g}: must be {valid} with --device {device}")


@dataclass(frozen=True)
class Origin:
    """What other machines must have like the one where the sweep was started.

    Attributes:
        versions: of this project and of the packages that can change a result.
        files: hash of each algorithm's file that is not one of the project's.
    """

    versions: Mapping[str, Any]
    files: Mapping[str, str]

    @classmethod
    def here(cls, runs: Sequence[Run], code: bool = True) -> Origin:
        """Return the facts of this machine.

        Args:
            runs: what is to be done.
            code: the commit too. Not where a job may begin days later: run.json tells of what
                was committed since.
        """
        files = {cell.file for run in runs for cell in run if cell.file is not None}
        versions = manifest.package_versions() | (_code() if code else {})
        return cls(versions, {file: _digest(file) for file in sorted(files)})

    def difference(self) -> str | None:
        """Return what this machine has otherwise, in one line; None if nothing."""
        versions = manifest.package_versions() | _code()
        for name, wanted in self.versions.items():
            if versions[name] != wanted:
                return f"has {name} {versions[name]}, the machine of the sweep has {wanted}"
        for file, wanted in self.files.items():
            try:
                found = _digest(file)
            except OSError as error:
                return f"cannot read {file} ({error.strerror})"
            if found != wanted:
                return f"has another {file}"
        return None


def _code() -> dict[str, Any]:
    return {f"levelfield's {name}": value for name, value in manifest.code_version().items()}


def _digest(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def run_watched(
    run: Run, experiment: Path, settings: RunSettings, should_stop: Callable[[], bool]
) -> Message:
    """Do a run in this process, which ends itself if no step comes for `settings.step_timeout`.

    No other process could tell. What ended is begun again by Ray, or by the same command, and
    goes on from its checkpoint.
    """
    last, heard = Message(0, (None,) * len(run)), time.monotonic()
    over = threading.Event()

    def report(progress: Progress) -> None:
        nonlocal last, heard
        last = Message(progress.step, progress.returns, progress.notice)
        heard = time.monotonic()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            if time.monotonic() - heard > settings.step_timeout:
                print(f"no step within {settings.step_timeout:g} s (--step-timeout)", flush=True)
                os._exit(EXIT_FAILED)

    threading.Thread(target=watch, name="step timeout", daemon=True).start()
    try:
        ends = run_here(run, experiment, settings, should_stop, report)
    finally:
        over.set()
    return replace(last, ends=tuple(ends))
