"""The claim of a process on a cell: one has it at a time, and it outlives no owner."""

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from runners.storage import lease
from runners.storage.lease import Lease, LeaseLost, holder, taken
from tests.helpers.runs import ROOT, snapshot, wait_until

OTHER = "0f0f0f0f-boot-of-another-machine"
SECONDS = 60  # that a test waits for another process


@pytest.fixture
def children():
    """Starts functions of this module in processes of their own; ends them after the test."""
    context = multiprocessing.get_context("forkserver")
    started = []

    def start(target, *arguments):
        here, there = context.Pipe()
        process = context.Process(target=target, args=(there, *arguments))
        process.start()
        there.close()
        started.append(process)
        return process, here

    start.context = context
    yield start
    for process in started:
        process.kill()
        process.join()


class Clock:
    """Stands in for the module `time`: it goes on when it is told to."""

    def __init__(self):
        self.now, self.utc = 0.0, 1.8e9

    def monotonic(self):
        return self.now

    def time(self):
        return self.utc


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(lease, "time", Clock())
    monkeypatch.setattr(lease, "_watched", {})
    return lease.time


def write_claim(folder, number=1, boot=OTHER, **changes):
    """A claim as another process wrote it."""
    facts = {"token": "f" * 32, "host": "far", "boot": boot, "pid": 7, "started": "2026-01-01"}
    facts |= {"locked": True, "beats": 0, "step": 40, "last_return": -1.5, **changes}
    path = folder / f"claim-{number}"
    path.write_bytes(json.dumps(facts).encode().ljust(lease.SIZE))
    return path


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def answer(pipe):
    assert pipe.poll(SECONDS), "the other process says nothing"
    return pipe.recv()


# One process ---------------------------------------------------------------------------


def test_a_cell_is_held_by_one_and_given_back(tmp_path):
    first, second = Lease(tmp_path), Lease(tmp_path)
    assert not taken(tmp_path)
    assert first.take()
    assert not second.take()
    assert taken(tmp_path)
    first.check()
    with pytest.raises(LeaseLost):
        second.check()
    first.release()
    first.release()
    assert listed(tmp_path) == []
    with pytest.raises(LeaseLost):
        first.check()
    assert second.take()
    second.check()


def test_who_is_refused_leaves_no_trace(tmp_path):
    owner = Lease(tmp_path)
    owner.take()
    before = snapshot(tmp_path)
    assert not Lease(tmp_path).take()
    assert taken(tmp_path)
    assert holder(tmp_path).alive
    assert snapshot(tmp_path) == before


def test_a_lease_that_is_dropped_is_given_back(tmp_path):
    owner = Lease(tmp_path)
    assert owner.take()
    del owner
    assert listed(tmp_path) == []


def test_only_the_own_claim_is_given_back(tmp_path):
    """The number of one that was taken over may be used again."""
    owner = Lease(tmp_path)
    owner.take()
    (tmp_path / "claim-1").unlink()
    write_claim(tmp_path)
    before = snapshot(tmp_path)
    owner.release()
    assert snapshot(tmp_path) == before


def used(folder):
    """Threads of this process that keep claims of a folder, and descriptors of its files."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed in the meantime
            links.append(os.readlink(link))
    names = [thread.name for thread in threading.enumerate()]
    return [sum(str(folder) in name for name in part) for part in (names, links)]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to count descriptors")
def test_many_cells_leave_neither_threads_nor_descriptors(tmp_path):
    for _ in range(20):
        owner = Lease(tmp_path)
        assert owner.take()
        assert min(used(tmp_path)) > 0
        owner.release()
    wait_until(lambda: used(tmp_path) == [0, 0], what="the threads to end")


def test_other_files_are_no_claims(tmp_path):
    """The lock of earlier versions, and a copy that somebody made."""
    for name in ("lock", "claim", "claim-1~", "claim-x", "step-000000001"):
        (tmp_path / name).touch()
    before = snapshot(tmp_path)
    assert not taken(tmp_path)
    assert holder(tmp_path) is None
    owner = Lease(tmp_path)
    assert owner.take()
    owner.release()
    assert snapshot(tmp_path) == before


def test_a_folder_that_has_gone_is_somebody_elses(tmp_path):
    """Its owner has ended the cell and removed its checkpoints."""
    assert not Lease(tmp_path / "gone").take()
    assert not taken(tmp_path / "gone")
    assert holder(tmp_path / "gone") is None


def test_beats_tell_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    owner = Lease(tmp_path)
    owner.take()
    assert (holder(tmp_path).step, holder(tmp_path).last_return) == (0, None)
    owner.beat(120, 3.5)
    wait_until(lambda: holder(tmp_path).step == 120, what="a beat")
    found = holder(tmp_path)
    assert (found.last_return, found.pid, found.alive) == (3.5, os.getpid(), True)
    assert (tmp_path / "claim-1").stat().st_size == lease.SIZE


def test_a_beat_that_fails_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    real, failed = os.pwrite, []
    owner = Lease(tmp_path)
    owner.take()

    def full(*arguments):
        if len(failed) < 3:
            failed.append(arguments)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", full)
    owner.beat(7, None)
    wait_until(lambda: holder(tmp_path).step == 7, what="a beat")
    assert len(failed) == 3
    owner.check()


def test_a_claim_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            Lease(tmp_path).take()
    assert listed(tmp_path) == []
    assert Lease(tmp_path).take()


def test_a_folder_that_is_away_for_a_moment_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    owner = Lease(folder)
    owner.take()
    folder.rename(tmp_path / "away")
    with pytest.raises(LeaseLost):
        owner.check()
    (tmp_path / "away").rename(folder)
    owner.beat(9, None)
    wait_until(lambda: holder(folder).step == 9, what="a beat")
    owner.check()


# Several processes of one kernel -------------------------------------------------------


def take_all(pipe, folders, barrier, watched):
    os.fsync = lambda descriptor: None  # the faster, the closer
    won, kept = [], []
    for folder in folders:
        if watched:
            content = (folder / "claim-1").read_bytes()
            lease._watched[folder / "claim-1"] = lease._Watch(content, 0.0, lease.LEASE_SECONDS)
        kept.append(Lease(folder))
        barrier.wait(SECONDS)
        if kept[-1].take():
            won.append(folder.name)
    barrier.wait(SECONDS)  # the losers look before the winners leave
    pipe.send(won)


def leave_nothing(folder):
    pass


def leave_dead_claim(folder):
    write_claim(folder, boot=lease._boot_id())


LEFT = {"nothing": leave_nothing, "dead": leave_dead_claim, "silent": write_claim}


@pytest.mark.parametrize("left", LEFT)
def test_of_two_takers_one_wins(tmp_path, children, left):
    """Where nothing is, where one of this kernel died, where one of another fell silent."""
    folders = [tmp_path / str(number) for number in range(200)]
    for folder in folders:
        folder.mkdir()
        LEFT[left](folder)
    barrier = children.context.Barrier(2)
    arguments = (take_all, folders, barrier, left == "silent")
    pipes = [children(*arguments)[1] for _ in range(2)]
    won = [answer(pipe) for pipe in pipes]
    assert sorted(won[0] + won[1]) == sorted(folder.name for folder in folders)


def go_in_and_out(pipe, folder, rounds, barrier):
    """Nobody else is inside while this process has the lease."""
    os.fsync = lambda descriptor: None
    inside, times, met = folder / "inside", 0, 0
    barrier.wait(SECONDS)
    for _ in range(rounds):
        owner = Lease(folder)
        if owner.take():
            times += 1
            try:
                inside.touch(exist_ok=False)
                inside.unlink()
            except FileExistsError:
                met += 1
        owner.release()
    pipe.send((times, met))


def test_no_two_are_inside_at_once(tmp_path, children):
    barrier = children.context.Barrier(3)
    pipes = [children(go_in_and_out, tmp_path, 60, barrier)[1] for _ in range(3)]
    times, met = zip(*map(answer, pipes), strict=True)
    assert sum(times) > 0
    assert sum(met) == 0
    assert listed(tmp_path) == []


def test_who_finds_another_claim_beside_his_own_withdraws(tmp_path, monkeypatch):
    """It was made between the look and the making, by one who had looked earlier still."""
    dead, made = write_claim(tmp_path, boot=lease._boot_id()), []
    real = lease._Claim

    def late(path):
        claim = real(path)
        made.append(write_claim(tmp_path, number=9))
        return claim

    monkeypatch.setattr(lease, "_Claim", late)
    before = dead.read_bytes()
    assert not Lease(tmp_path).take()
    assert listed(tmp_path) == ["claim-1", "claim-9"]
    assert dead.read_bytes() == before


def hold(pipe, folder, boot=None, beat_seconds=10.0, child=False):
    """Takes the cell, then answers: `check`, `release` and `beats`."""
    if boot is not None:
        lease._boot_id = lambda: boot
    lease.BEAT_SECONDS = beat_seconds
    owner = Lease(folder)
    pipe.send((owner.take(), sleeping_child() if child else None))
    while True:
        try:
            pipe.send(getattr(owner, pipe.recv())())
        except LeaseLost as error:
            pipe.send(str(error))


def sleeping_child():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    return pid


@pytest.mark.parametrize("child", [False, True], ids=["alone", "survived by a child"])
def test_a_killed_owner_is_replaced_at_once(tmp_path, children, child):
    process, pipe = children(hold, tmp_path, None, 10.0, child)
    took, orphan = answer(pipe)
    assert took
    assert taken(tmp_path)
    assert holder(tmp_path).pid == process.pid
    process.kill()
    process.join()
    found = holder(tmp_path)
    assert (found.pid, found.alive) == (process.pid, False)
    follower = Lease(tmp_path)
    assert follower.take()
    assert holder(tmp_path).pid == os.getpid()
    assert listed(tmp_path) == ["claim-2"]
    if child:
        os.kill(orphan, signal.SIGKILL)  # it was alive all the time


def test_taken_clears_a_dead_claim_away(tmp_path):
    write_claim(tmp_path, boot=lease._boot_id())
    assert not taken(tmp_path)
    assert listed(tmp_path) == []


def fork_and_ask(pipe, folder):
    owner = Lease(folder)
    owner.take()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(LeaseLost):
            owner.check()
            os._exit(1)
        owner.release()
        os._exit(0 if taken(folder) else 2)
    _, status = os.waitpid(pid, 0)
    owner.check()
    pipe.send(os.waitstatus_to_exitcode(status))


def test_a_forked_child_has_no_lease_and_cannot_end_its_parents(tmp_path, children):
    _, pipe = children(fork_and_ask, tmp_path)
    assert answer(pipe) == 0


def test_a_process_that_ends_by_itself_gives_back(tmp_path):
    code = (
        "import pathlib, runners.storage.lease as m; x = m.Lease(pathlib.Path()); assert x.take()"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ).check_returncode()
    assert listed(tmp_path) == []


def test_it_needs_no_torch():
    code = (
        "import sys, runners.storage.lease; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# Another machine, and file systems without locks ---------------------------------------


def seconds_until_free(folder, clock):
    begun = clock.now
    for _ in range(100):
        if not taken(folder):
            return clock.now - begun
        clock.now += 2.0
    return None


def test_a_foreign_claim_is_respected_while_it_moves(tmp_path, clock):
    for beat in range(50):
        write_claim(tmp_path, beats=beat)
        assert taken(tmp_path)
        clock.now += lease.BEAT_SECONDS
    assert not Lease(tmp_path).take()


def test_a_foreign_claim_that_stands_still_is_taken_over(tmp_path, clock):
    write_claim(tmp_path)
    assert seconds_until_free(tmp_path, clock) == lease.LEASE_SECONDS
    assert Lease(tmp_path).take()


def test_one_beat_starts_the_time_again(tmp_path, clock):
    write_claim(tmp_path)
    for beats in (0, 1):
        write_claim(tmp_path, beats=beats)
        for _ in range(6):
            assert taken(tmp_path)
            clock.now += 9.0
    assert taken(tmp_path)


def test_an_observer_that_slept_gives_the_owner_time(tmp_path, clock):
    """Both may have waited for a file server that was away for an hour."""
    write_claim(tmp_path)
    assert taken(tmp_path)
    clock.now += 3600.0
    assert taken(tmp_path)
    write_claim(tmp_path, beats=1)
    clock.now += 3600.0
    assert taken(tmp_path)


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps_changes_nothing(tmp_path, clock, jump):
    claim = write_claim(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    mine = Lease(own)
    assert mine.take()
    assert taken(tmp_path)
    clock.utc += jump
    os.utime(claim, (0, 0))
    clock.now += 1.0
    assert taken(tmp_path)
    mine.check()
    assert taken(own)


def test_an_owner_that_was_suspended_too_long_learns_it(tmp_path, children, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.5)
    process, pipe = children(hold, tmp_path, OTHER, 0.05)
    assert answer(pipe) == (True, None)
    pipe.send("check")
    assert answer(pipe) is None
    os.kill(process.pid, signal.SIGSTOP)
    follower = Lease(tmp_path)
    wait_until(follower.take, what="the end of the lease")
    before = snapshot(tmp_path)
    os.kill(process.pid, signal.SIGCONT)
    for question in ("check", "check", "release", "check"):
        pipe.send(question)
        reply = answer(pipe)
        assert reply is None if question == "release" else "taken this cell over" in reply
    follower.check()
    assert snapshot(tmp_path).keys() == before.keys() == {"claim-2"}
    assert holder(tmp_path).pid == os.getpid()


def test_without_locks_the_beats_decide(tmp_path, clock, monkeypatch):
    """A file server without a lock daemon; even of processes of one machine."""

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lease, "fcntl", types.SimpleNamespace(flock=refuse, **FLAGS))
    owner = Lease(tmp_path)
    assert owner.take()
    assert json.loads((tmp_path / "claim-1").read_bytes())["locked"] is False
    owner.check()
    assert seconds_until_free(tmp_path, clock) == lease.LEASE_SECONDS  # it never beat
    with pytest.raises(LeaseLost):
        owner.check()


def test_what_its_owner_could_not_lock_is_not_taken_for_dead(tmp_path, clock):
    write_claim(tmp_path, boot=lease._boot_id(), locked=False)
    assert seconds_until_free(tmp_path, clock) == lease.LEASE_SECONDS


FLAGS = {name: getattr(lease.fcntl, name) for name in ("LOCK_EX", "LOCK_SH", "LOCK_NB")}


def test_a_machine_without_a_boot_id_trusts_no_lock(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(lease, "BOOT_ID", Path("/nonexistent"))
    lease._boot_id.cache_clear()
    try:
        write_claim(tmp_path, boot="")
        assert taken(tmp_path)  # nobody has it locked, and yet it may be alive
    finally:
        lease._boot_id.cache_clear()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"token": 1}'], ids=ascii)
def test_a_half_written_claim_gets_a_whole_lease(tmp_path, clock, content):
    (tmp_path / "claim-1").write_bytes(content)
    assert holder(tmp_path) is None
    assert seconds_until_free(tmp_path, clock) == lease.LEASE_SECONDS


def test_the_holder_is_the_newest_and_its_age_that_of_its_file(tmp_path, clock):
    assert holder(tmp_path) is None
    write_claim(tmp_path, number=9, boot=lease._boot_id(), host="old")
    newest = write_claim(tmp_path, number=10)
    for age, alive in ((1.0, True), (lease.LEASE_SECONDS, False)):
        os.utime(newest, (0, clock.utc - age))
        found = holder(tmp_path)
        assert found == lease.Holder("far", 7, "2026-01-01", 40, -1.5, age, alive)
    os.utime(newest, (0, clock.utc + 100.0))  # a file server whose clock is ahead
    assert holder(tmp_path).age == 0.0
