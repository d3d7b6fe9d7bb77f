"""Faults of the disk: a real one that is full, and checkpoints that it damaged."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from algos.parts.blocks import Ring
from runners import train
from runners.cells.errors import EXIT_AGAIN, EXIT_USAGE
from runners.cells.protocols import PROTOCOLS
from runners.storage import checkpoint
from runners.terminal.cli import run_main
from runners.terminal.machine import FREE_BYTES
from tests.helpers.runs import TINY, Forked, cell_of, files_of, small_options, wait_until
from tests.helpers.selection import mostly_extended

SPACE = "No space left on device"
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def may_mount():
    return os.geteuid() == 0


@pytest.mark.parametrize(
    "chosen", mostly_extended(["not extended", "extended"], quick=["not extended"])
)
def test_these_tests_run_in_a_namespace_where_the_user_is_root(tmp_path, chosen):
    if may_mount():
        pytest.skip("the user is root")
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("neither root nor namespaces: no disk can be mounted")
    again = [sys.executable, "-m", "pytest", "-n0", f"--basetemp={tmp_path / 'again'}"]
    again += ["-m", chosen, __file__]
    assert subprocess.run([*NAMESPACE, *again], check=False).returncode == 0


class Disk:
    """A mounted file system of its own."""

    def __init__(self, path):
        self.path, self.ballast = path, path / "ballast"

    @property
    def free(self):
        return shutil.disk_usage(self.path).free

    def fill(self, leave):
        """Leave so many bytes, to the next page, though others write at the same time."""
        with self.ballast.open("wb") as file, contextlib.suppress(OSError):
            for piece in (1 << 20, 1 << 12):
                while self.free - leave >= piece:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, piece)

    def empty(self):
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path):
    if not may_mount():
        pytest.skip("mounting needs root: run in a namespace by the test above")
    place = tmp_path / "disk"
    place.mkdir()
    size = f"size={FREE_BYTES + (8 << 20)}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "none", place],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted: {mounted.stderr.strip()}")
    yield Disk(place)
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="module")
def arguments():
    """A run with a checkpoint at every step and many blocks."""
    command = ["--algo=sac@quick", "--task=mbbl/Pendulum", "--protocol=tiny"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, TINY.name, TINY)
        patch.setattr(Ring, "BYTES", 1 << 10)
        yield [*command, "--checkpoint-seconds=0", *small_options("sac")]


def command(arguments, experiment):
    """Exit code of the command line in this process."""
    with pytest.raises(SystemExit) as left:
        run_main(lambda: train.main([*arguments, f"--experiment={experiment}"]))
    return left.value.code


def run_of(experiment):
    sets = [text.removeprefix("--set=") for text in small_options("sac", "sac.")]
    return cell_of("sac@quick", sets=sets).path(experiment)


def record_of(experiment):
    return json.loads((run_of(experiment) / "run.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, arguments):
    """Files of a run that nothing disturbed."""
    experiment = tmp_path_factory.mktemp("whole")
    assert command(arguments, experiment) == 0
    return files_of(run_of(experiment))


def at_save(monkeypatch, actions):
    """Do something before the checkpoints of these numbers."""
    count = 0

    def save(*arguments, original=checkpoint.save, **options):
        nonlocal count
        count += 1
        actions.get(count, lambda: None)()
        return original(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", save)


# From no room at all to room for a part of a checkpoint, of some 100 kB.
@pytest.mark.parametrize("leave", mostly_extended([0, 1 << 13, 1 << 16], quick=[1 << 13]))
def test_a_disk_that_is_full_for_a_while_stops_nothing(
    disk, arguments, whole, monkeypatch, capfd, leave
):
    experiment, seen = disk.path / "e", []
    folder = run_of(experiment) / "checkpoint"

    def look():
        seen.append((disk.free, sorted(path.name for path in folder.glob("step-*"))))

    with monkeypatch.context() as patch:
        at_save(patch, {12: lambda: disk.fill(leave), 13: look, 14: look, 15: disk.empty})
        assert command(arguments, experiment) == 0
    assert files_of(run_of(experiment)) == whole
    # A failed save leaves the two older checkpoints, and gives back what it took.
    (free, steps), (free_later, steps_later) = seen
    assert steps == steps_later == ["step-000000009", "step-000000010"]
    assert free == free_later
    notices = record_of(experiment)["notices"]
    assert notices == [f"no checkpoint at step {step} ({SPACE})" for step in (11, 12, 13)]
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("number", "leave"), mostly_extended([(1, 0), (12, 1 << 14)], quick=[(12, 1 << 14)])
)
def test_a_disk_that_stays_full_is_one_line_and_loses_nothing(
    disk, arguments, whole, monkeypatch, capfd, number, leave
):
    """From the first checkpoint on, or from a later one."""
    experiment = disk.path / "e"
    with monkeypatch.context() as patch:
        at_save(patch, {number: lambda: disk.fill(leave)})
        assert command(arguments, experiment) == 1
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    last = [line for line in printed.splitlines() if "failed" in line][-1]
    assert SPACE in last
    disk.empty()
    assert command(arguments, experiment) == 0
    assert files_of(run_of(experiment)) == whole
    assert record_of(experiment)["status"] == "done"


def test_a_stop_that_cannot_be_saved_is_a_failure_with_its_reason(
    disk, arguments, whole, monkeypatch, capfd
):
    def fill_and_stop():
        disk.fill(0)
        os.kill(os.getpid(), signal.SIGTERM)

    experiment = disk.path / "e"
    with monkeypatch.context() as patch:
        at_save(patch, {12: fill_and_stop})
        assert command(arguments, experiment) == 1
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    assert SPACE in printed
    disk.empty()
    assert command(arguments, experiment) == 0
    assert files_of(run_of(experiment)) == whole
    assert record_of(experiment)["resumed"] == 1


@pytest.mark.extended
def test_a_disk_that_fills_up_under_a_process_of_its_own(disk, tmp_path):
    """Filled from outside at any moment: the command goes on or fails, and ends when run again."""
    arguments = ["--algo=sac@quick", "--task=mbbl/HalfCheetah", "--protocol=chaos"]
    arguments += ["--checkpoint-seconds=0", *small_options("sac", task="mbbl/HalfCheetah")]

    def started(place):
        return Forked("train", [*arguments, f"--experiment={place}"], tmp_path / "log")

    undisturbed, experiment = started(tmp_path / "whole"), disk.path / "e"
    assert undisturbed.wait() == 0, undisturbed.output
    filled = started(experiment)
    wait_until(lambda: any(experiment.rglob("step-*")), what="a checkpoint")
    disk.fill(1 << 14)
    assert filled.wait() in (0, 1)
    assert "Traceback" not in filled.output
    disk.empty()
    again = started(experiment)
    assert again.wait() == 0, again.output
    one, other = (next(place.rglob("seed-0")) for place in (tmp_path / "whole", experiment))
    assert files_of(one) == files_of(other)


# Damaged files ------------------------------------------------------------------------


def cut(path):
    os.truncate(path / "tensors.safetensors", 1_000)


def flip(path):
    values = bytearray((path / "tensors.safetensors").read_bytes())
    values[-1] ^= 1
    (path / "tensors.safetensors").write_bytes(values)


@pytest.mark.parametrize("damage", mostly_extended([cut, flip], quick=[cut]))
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    tmp_path, arguments, whole, monkeypatch, capfd, damage
):
    experiment = tmp_path / "e"
    folder = run_of(experiment) / "checkpoint"
    with monkeypatch.context() as patch:
        at_save(patch, {12: lambda: os.kill(os.getpid(), signal.SIGTERM)})
        assert command(arguments, experiment) == EXIT_AGAIN
    older, newest = sorted(folder.glob("step-*"))
    damage(newest)
    assert command(arguments, experiment) == 0
    assert files_of(run_of(experiment)) == whole
    (notice,) = record_of(experiment)["notices"]
    assert notice.startswith(f"checkpoint {newest} is damaged (")
    assert notice.endswith(f"; going on from {older.name}")
    assert "Traceback" not in "".join(capfd.readouterr())


def test_two_damaged_checkpoints_are_one_line_with_the_remedy(
    tmp_path, arguments, whole, monkeypatch, capfd
):
    experiment = tmp_path / "e"
    folder = run_of(experiment) / "checkpoint"
    with monkeypatch.context() as patch:
        at_save(patch, {12: lambda: os.kill(os.getpid(), signal.SIGTERM)})
        assert command(arguments, experiment) == EXIT_AGAIN
    for path in folder.glob("step-*"):
        flip(path)
    capfd.readouterr()
    assert command(arguments, experiment) == EXIT_USAGE
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert f"is damaged (checksum differs); remove {folder} to start the cell again" in error
    shutil.rmtree(folder)
    assert command(arguments, experiment) == 0
    assert files_of(run_of(experiment)) == whole
