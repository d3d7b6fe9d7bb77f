"""Slurm jobs through submitit: run by its local executor, and as scripts for a false Slurm."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runners.cells.errors import UserError
from runners.cells.settings import RunSettings
from runners.launchers import slurm
from runners.launchers.remote import Needs, Origin
from runners.launchers.slurm import RunJob, SlurmLauncher
from runners.storage import lease
from runners.storage.lease import holder
from runners.storage.rundir import RunDirectory
from tests.helpers.cluster import (
    Watched,
    begun,
    cells_in,
    record_of,
    statuses,
)
from tests.helpers.runs import files_of

pytest.importorskip("submitit", reason="submitit is not installed (pip install -e '.[cluster]')")


@pytest.fixture(autouse=True)
def quick(monkeypatch, signal_handlers):
    monkeypatch.setattr(slurm, "TICK_SECONDS", 0.1)
    monkeypatch.setattr(slurm, "QUEUE_SECONDS", 0.3)


@pytest.fixture
def cells(tmp_path):
    return cells_in(tmp_path)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Makes false commands of Slurm, as lines of a shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(**lines):
        for name, line in lines.items():
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)

    return make


class Local(SlurmLauncher):
    """The launcher on submitit's local executor, whose jobs are processes of this machine."""

    cluster = "local"

    def _check_installed(self):
        pass

    def _queued(self):
        queued = set()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has just ended
                if b"submitit.local" in path.read_bytes():
                    queued.add(path.parent.name)
        return queued


def launch(cells, experiment, at_refresh=lambda view: None, kind=Local, **options):
    launcher = kind(RunSettings(checkpoint_seconds=0.2), Needs(), minutes=5, **options)
    view = Watched(cells, at_refresh)
    return launcher.run([(cell,) for cell in cells], experiment, view), view, launcher


def signal_once(cell, experiment, number):
    """Sends a signal to a cell's process, once there is something to go on from."""
    folder, sent = RunDirectory(cell, experiment).checkpoints, []

    def look(view):
        if not sent and begun(cell, experiment):
            sent.append(holder(folder).pid)
            os.kill(sent[0], number)

    return look


def test_a_job_whose_time_is_up_is_queued_again_and_goes_on(cells, whole, tmp_path):
    experiment = tmp_path / "e"
    interrupt = signal_once(cells[0], experiment, signal.SIGUSR2)
    finished, view, launcher = launch(cells, experiment, interrupt)
    assert finished
    assert not launcher.jobs
    assert statuses(cells, view) == ["done", "done"]
    assert [view.row(cell).step for cell in cells] == [60, 60]
    assert [record_of(cell, experiment)["resumed"] for cell in cells] == [1, 0]
    assert [files_of(cell.path(experiment)) for cell in cells] == whole


@pytest.mark.slow
def test_a_job_preempted_within_a_grace_time_is_queued_again(cells, whole, tmp_path, commands):
    commands(squeue="echo RUNNING")
    experiment = tmp_path / "e"
    interrupt = signal_once(cells[0], experiment, signal.SIGTERM)
    finished, view, _ = launch(cells[:1], experiment, interrupt)
    assert finished
    assert statuses(cells[:1], view) == ["done"]
    assert record_of(cells[0], experiment)["resumed"] == 1
    assert files_of(cells[0].path(experiment)) == whole[0]


@pytest.mark.extended
def test_a_job_that_was_cancelled_stays_ended_until_the_next_sweep(
    cells, whole, tmp_path, commands
):
    commands(squeue="echo CANCELLED")
    experiment = tmp_path / "e"
    interrupt = signal_once(cells[0], experiment, signal.SIGTERM)
    finished, view, _ = launch(cells[:1], experiment, interrupt)
    assert finished
    row = view.row(cells[0])
    assert row.status == record_of(cells[0], experiment)["status"] == "failed"
    assert row.reason.startswith("Slurm job ")
    assert " ended without a result; see " in row.reason
    assert Path(row.reason.rpartition(" ")[2]).exists()
    finished, view, _ = launch(cells[:1], experiment)
    assert finished
    assert record_of(cells[0], experiment)["resumed"] == 1
    assert files_of(cells[0].path(experiment)) == whole[0]


@pytest.mark.extended
def test_jobs_outlive_a_sweep_and_the_next_one_follows_them(cells, whole, tmp_path):
    experiment = tmp_path / "e"
    finished, view, first = launch(
        cells, experiment, lambda view: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert not finished
    assert first.jobs.keys() <= first._queued()
    finished, view, second = launch(cells, experiment)
    assert finished
    assert statuses(cells, view) == ["done", "done"]
    submitted = {path.name.partition("_")[0] for path in second.folder.glob("*_submitted.pkl")}
    assert submitted == set(first.jobs), "the second sweep has submitted jobs too"
    assert [record_of(cell, experiment)["resumed"] for cell in cells] == [0, 0]
    assert [files_of(cell.path(experiment)) for cell in cells] == whole


def test_a_job_that_cannot_begin_says_why(cells, tmp_path):
    cell = dataclasses.replace(cells[0], task="mbbl/Nowhere")
    finished, view, _ = launch([cell], tmp_path / "e")
    assert finished
    assert view.row(cell).status == "failed"
    assert "unknown task 'mbbl/Nowhere'" in view.row(cell).reason


def test_a_machine_with_other_versions_refuses(cells, tmp_path):
    run, origin = (cells[0],), Origin.here([(cells[0],)])
    other = Origin({**origin.versions, "numpy": "0.1"}, {})
    (end,) = RunJob(RunSettings(), other)(run, tmp_path / "e").ends
    assert end.status == "refused"
    assert end.reason.startswith("this machine has numpy ")
    assert not cells[0].path(tmp_path / "e").exists()


def test_the_claim_of_a_lost_machine_is_waited_for(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.5)
    folder = RunDirectory(cells[0], tmp_path / "e").checkpoints
    folder.mkdir(parents=True)
    facts = lease._facts_of_this_process(locked=False)
    facts = dataclasses.replace(facts, boot="of another machine", host="lost")
    (folder / "claim-1").write_bytes(json.dumps(dataclasses.asdict(facts)).encode())
    job = RunJob(RunSettings(), Origin.here([]))
    (end,) = job._take_over((cells[0],), tmp_path / "e", lambda: False).ends
    assert end.status == "done"


# The script -------------------------------------------------------------------------


@pytest.fixture
def false_slurm(tmp_path, commands):
    """Takes jobs, shows them in the queue, and runs none."""
    commands(
        srun="exit 1",
        sbatch=f"""
n=$(ls {tmp_path}/script-* 2>/dev/null | wc -l)
cp "$1" {tmp_path}/script-$n
echo Submitted batch job 4$n""",
        squeue="echo 40_0 40_1 41",
    )
    return tmp_path


def stop(view):
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_slurm_is_asked_for(cells, false_slurm, monkeypatch):
    monkeypatch.setattr(slurm, "MOST_RUNS", 2)
    third = dataclasses.replace(cells[0], seed=2)
    needs = Needs(cpus=2, gpus=1, memory_gb=1.5)
    launcher = SlurmLauncher(
        RunSettings("cuda"), needs, 90, "fast", 1, {"account": "mine", "signal": "USR2@200"}
    )
    runs = [(cell,) for cell in (*cells, third)]
    assert not launcher.run(runs, false_slurm / "e", Watched([*cells, third], stop))
    first, second = ((false_slurm / f"script-{n}").read_text() for n in range(2))
    options = {line.removeprefix("#SBATCH ") for line in first.splitlines() if "SBATCH" in line}
    assert options >= {
        "--partition=fast",
        "--array=0-1%1",
        "--time=90",
        "--requeue",
        "--cpus-per-task=2",
        "--gpus-per-node=1",
        "--mem=1536MB",
        "--ntasks-per-node=1",
        "--signal=USR2@200",
        "--account=mine",
        "--open-mode=append",
    }
    assert "--array" not in second  # one run is a plain job
    assert f"-m submitit.core._submit {false_slurm}/e/slurm" in first
    names = json.loads((false_slurm / "e/slurm/jobs.json").read_text())
    assert names == {"40_0": [cells[0].name], "40_1": [cells[1].name], "41": [third.name]}

    # The same command again: all are in the queue, so nothing is submitted.
    again = SlurmLauncher(RunSettings("cuda"), needs, 90, "fast")
    assert not again.run(runs, false_slurm / "e", Watched([*cells, third], stop))
    assert not (false_slurm / "script-2").exists()


def test_jobs_that_left_the_queue_without_a_result_are_told(cells, false_slurm, commands):
    commands(squeue="true")
    finished, view, _ = launch(cells, false_slurm / "e", kind=SlurmLauncher)
    assert finished
    assert statuses(cells, view) == ["failed", "failed"]
    log = false_slurm / "e/slurm/40_1_0_log.err"
    assert view.row(cells[1]).reason == f"Slurm job 40_1 ended without a result; see {log}"


def test_a_queue_that_gives_no_answer_loses_no_job(cells, false_slurm, commands):
    commands(squeue="exit 1")
    looks = []

    def look(view):
        looks.append(statuses(cells, view))
        if len(looks) == 20:  # more than six looks at the queue
            os.kill(os.getpid(), signal.SIGTERM)

    finished, *_ = launch(cells, false_slurm / "e", look, SlurmLauncher)
    assert not finished
    assert looks == [["waiting", "waiting"]] * 20
    with pytest.raises(UserError, match="squeue gives no answer"):
        launch(cells, false_slurm / "e", kind=SlurmLauncher)


def test_jobs_that_slurm_refuses_are_one_line(cells, false_slurm, commands, capfd):
    commands(sbatch="echo sbatch: error: no such partition: nowhere >&2; echo sorry >&2; exit 1")
    with pytest.raises(UserError) as error:
        launch(cells, false_slurm / "e", kind=SlurmLauncher, partition="nowhere")
    line = "--launcher slurm: sbatch: error: no such partition: nowhere; sorry"
    assert str(error.value) == line
    assert capfd.readouterr().err == ""


def test_bad_values_are_one_line(false_slurm, monkeypatch):
    with pytest.raises(UserError, match=r"--cpus-per-run 0.5: Slurm gives out whole ones"):
        SlurmLauncher(RunSettings(), Needs(cpus=0.5), 60)
    with pytest.raises(UserError, match=r"--gpus-per-run 0.5: Slurm gives out whole ones"):
        SlurmLauncher(RunSettings("cuda"), Needs(gpus=0.5), 60)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"no Slurm on this machine \(no sbatch\)"):
        SlurmLauncher(RunSettings(), Needs(), 60)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"not installed; pip install -e '.\[cluster\]'"):
        SlurmLauncher(RunSettings(), Needs(), 60)


def has_slurm():
    return (
        bool(shutil.which("sinfo"))
        and not subprocess.run(["sinfo"], capture_output=True).returncode
    )


@pytest.mark.slow
@pytest.mark.skipif("not has_slurm()", reason="no Slurm on this machine")
def test_a_real_slurm(cells, whole, tmp_path):
    experiment = tmp_path / "e"
    finished, *_ = launch(cells, experiment, kind=SlurmLauncher)
    assert finished
    assert [files_of(cell.path(experiment)) for cell in cells] == whole
