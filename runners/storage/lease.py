"""The claim of one process on one run directory, seen by every process that shares the folder.

A claim is a small file `claim-<n>` beside the checkpoints. Whether its owner lives is told

- on the same kernel by a lock (flock) on that file, which the kernel drops when the process
  ends, however it ends: exact, at once, and nothing that a reused process number could confuse;
- on another machine by its beats: the owner's thread writes the file anew every
  `BEAT_SECONDS`, and who has watched it for `LEASE_SECONDS` without a change takes it for dead.
  The watcher's own monotonic clock counts, so no two clocks are ever compared.

To take a claim is to announce and then to look again. A file of the next number is made with
O_EXCL, which NFS keeps too since version 3 and which needs no hard links: of two processes
that saw the same, one makes it. Who then finds a claim that it has not found dead withdraws.
So of two claims at least the later one sees the other, and never do both stand.

An owner never writes by name, only into the file that it made. A claim that was taken over
has been removed, so a late beat of a process that was suspended goes nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import re
import socket
import threading
import time
import uuid
import weakref
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

BEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
SIZE = 1024  # bytes of a claim; one size, so that writing it anew needs no truncation
NAME = re.compile(r"claim-(\d+)")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LeaseLost(Exception):
    """The claim of this process is gone: another process has the cell now."""


@dataclass(frozen=True)
class Holder:
    """The process that has, or had, a cell.

    Attributes:
        host: name of its machine.
        pid: its number there.
        started: when it took the cell, UTC, ISO 8601.
        step: environment steps done, as of its last beat.
        last_return: mean return of the last evaluation, as of its last beat.
        age: seconds since its last beat, from the file's time and this machine's clock; a file
            server's clock may differ. For people to read: nothing is decided by it but `alive`
            of a process on another machine.
        alive: whether it lives; exact on the same kernel, else whether it is younger than
            `LEASE_SECONDS`.
    """

    host: str
    pid: int
    started: str
    step: int
    last_return: float | None
    age: float
    alive: bool


@dataclass(frozen=True)
class _Facts:
    """What a claim's file says, as JSON. The token comes before all that changes in length."""

    token: str
    host: str
    boot: str
    pid: int
    started: str
    locked: bool
    beats: int = 0
    step: int = 0
    last_return: float | None = None


class Lease:
    """The right of this process to run one cell, for as long as it is held.

    It ends with `release`, with the object or with the process, whichever is first. A forked
    child does not have it.

    Args:
        folder: the cell's folder of checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._claim: _Claim | None = None
        self._end: weakref.finalize[[], Lease] | None = None

    def take(self) -> bool:
        """Claim the cell; False if a living process has it, or one that may be alive.

        Never waits. Whether a process of another machine is dead can only be told by asking
        again, here or by `taken`, in the same process and at least every `BEAT_SECONDS`.

        Raises:
            OSError: the folder cannot be written.
        """
        dead = _claims(self.folder)
        if any(_alive(path, content) for path, content in dead.items()):
            return False
        number = 1 + max(map(_number, dead), default=0)
        try:
            claim = _Claim(self.folder / f"claim-{number}")
        except (FileExistsError, FileNotFoundError):
            return False  # another was faster, or has just ended the cell and removed the folder
        self._claim, self._end = claim, weakref.finalize(self, claim.release)
        if not claim.stands_alone(dead):
            self.release()
            return False
        for path in dead:
            path.unlink(missing_ok=True)
        return True

    def beat(self, step: int, last_return: float | None) -> None:
        """Note how far the run is; the claim's thread writes it with the next beat."""
        if self._claim is not None:
            self._claim.progress = step, last_return

    def check(self) -> None:
        """Look whether the claim still stands.

        Raises:
            LeaseLost: it does not, or this process never had it.
        """
        if self._claim is None or not self._claim.stands():
            raise LeaseLost(f"{self.folder}: another process has taken this cell over")

    def release(self) -> None:
        """Give the cell back."""
        if self._end is not None:
            self._end()
        self._claim = None


class _Claim:
    """A claim of this process. Its thread alone uses the descriptor, and closes it."""

    def __init__(self, path: Path) -> None:
        self.path, self.pid = path, os.getpid()
        self.progress: tuple[int, float | None] = 0, None
        self._stop = threading.Event()
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            # Locked before it says so: nobody finds a living owner's file unlocked.
            self.facts = _facts_of_this_process(locked=_lock(self.descriptor))
            self._write()
            threading.Thread(target=self._keep, name=f"beat {path}", daemon=True).start()
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(self.descriptor)
            raise
        _own.add(self)

    def _keep(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            step, last_return = self.progress
            beats = self.facts.beats + 1
            self.facts = replace(self.facts, beats=beats, step=step, last_return=last_return)
            with contextlib.suppress(OSError):  # a full disk, a server that is away: the next one
                self._write()
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)

    def _write(self) -> None:
        os.pwrite(self.descriptor, json.dumps(asdict(self.facts)).encode().ljust(SIZE), 0)
        os.fsync(self.descriptor)  # else NFS keeps it to itself for half a minute

    def stands(self) -> bool:
        """Whether the file is still there and this process's own."""
        # Opened by name: NFS then asks the server. A parser could meet a half-written beat.
        return os.getpid() == self.pid and self.facts.token.encode() in (_read(self.path) or b"")

    def stands_alone(self, dead: dict[Path, bytes]) -> bool:
        """Whether no claim is there but this one and those that were found dead."""
        found = _claims(self.path.parent)
        return found.pop(self.path, None) is not None and found.items() <= dead.items()

    def release(self) -> None:
        """Remove the file if it is still this claim's, and end the thread."""
        if os.getpid() != self.pid:  # a child must not touch the event: its thread may have it
            return
        with contextlib.suppress(OSError):
            if self.stands():
                self.path.unlink(missing_ok=True)
        self._stop.set()


_own: weakref.WeakSet[_Claim] = weakref.WeakSet()


def _close_in_child() -> None:
    """Close the descriptor in a child: it would keep the lock after its parent's death."""
    for claim in _own:
        if claim.descriptor >= 0:
            os.close(claim.descriptor)
    _own.clear()


os.register_at_fork(after_in_child=_close_in_child)


def taken(folder: Path) -> bool:
    """Whether a living process has the cell, or one that may be alive; see `Lease.take`.

    The claim of a dead one is removed: who asks here before it starts a process for the cell
    spares that process the watching.
    """
    if not _claims(folder):
        return False
    lease = Lease(folder)
    free = lease.take()
    lease.release()
    return not free


def holder(folder: Path) -> Holder | None:
    """Who has, or had, the cell; None if nobody. Changes nothing.

    Args:
        folder: the cell's folder of checkpoints; need not exist.
    """
    for path, content in sorted(_claims(folder).items(), key=lambda item: -_number(item[0])):
        facts = _parse(content)
        try:
            age = max(0.0, time.time() - path.stat().st_mtime)
        except FileNotFoundError:
            continue
        if facts is not None:
            held = _locked_here(path, facts)
            alive = age < LEASE_SECONDS if held is None else held
            progress = facts.step, facts.last_return
            return Holder(facts.host, facts.pid, facts.started, *progress, age, alive)
    return None


def _claims(folder: Path) -> dict[Path, bytes]:
    found = {path: _read(path) for path in folder.glob("claim-*") if NAME.fullmatch(path.name)}
    return {path: content for path, content in found.items() if content is not None}


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _read(path: Path) -> bytes | None:
    """Return the content of a claim, or None if it is gone."""
    try:
        with path.open("rb") as file:
            return file.read(SIZE)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise


def _parse(content: bytes) -> _Facts | None:
    """None for what its owner has not written whole."""
    try:
        return _Facts(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _alive(path: Path, content: bytes) -> bool:
    held = _locked_here(path, _parse(content))
    return not _silent(path, content) if held is None else held


def _locked_here(path: Path, facts: _Facts | None) -> bool | None:
    """Whether a process of this kernel holds the claim; None if no lock can tell."""
    if facts is None or not facts.locked or not facts.boot or facts.boot != _boot_id():
        return None
    try:
        with path.open("rb") as file:
            # Shared, so that two who ask at the same time do not take each other for the owner.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


@dataclass
class _Watch:
    content: bytes
    looked: float
    seconds: float = 0.0


_watched: dict[Path, _Watch] = {}


def _silent(path: Path, content: bytes) -> bool:
    """Whether this process has watched a claim for a whole lease and seen no beat."""
    now = time.monotonic()
    watch = _watched.setdefault(path, _Watch(content, now))
    if watch.content != content:
        watch = _watched[path] = _Watch(content, now)
    # A long gap between two looks counts little: this process may have been suspended, or the
    # file server away, and the owner with it. It gets its time to beat again.
    watch.seconds += min(now - watch.looked, BEAT_SECONDS)
    watch.looked = now
    return watch.seconds >= LEASE_SECONDS


def _lock(descriptor: int) -> bool:
    """Lock a claim for the life of this process; False where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _facts_of_this_process(locked: bool) -> _Facts:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return _Facts(uuid.uuid4().hex, socket.gethostname(), _boot_id(), os.getpid(), started, locked)


@functools.cache
def _boot_id() -> str:
    """Name of this run of this kernel; empty where the system has none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
