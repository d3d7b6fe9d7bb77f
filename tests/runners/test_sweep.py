"""Sweeps in which cells fail, diverge, die or are refused: the others go on, each says why."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import algos
from runners import sweep
from runners.launchers import local
from runners.launchers.local import LocalLauncher
from runners.storage.checkpoint import save
from runners.storage.rundir import RunDirectory, open_experiment
from runners.training.loop import Interrupted
from runners.training.session import run_cell
from runners.training.worker import StopFlag
from tests.helpers.runs import (
    FAKES,
    ROOT,
    TINY,
    Forked,
    Still,
    cell_of,
    load_fake,
    snapshot,
    wait_until,
    work_with_fakes,
)

pytestmark = pytest.mark.usefixtures("sweeps_of_fakes")


@pytest.fixture
def experiment(tmp_path):
    return tmp_path / "e"


def run(entries, experiment, *more):
    arguments = [f"--algos={entries}", "--protocol=tiny", "--seeds=1", "--workers=2"]
    return sweep.main([*arguments, f"--experiment={experiment}", "--no-report", *more])


def record_of(algo, experiment):
    return json.loads((cell_of(algo).path(experiment) / "run.json").read_text())


def test_every_kind_of_end_is_told_and_the_others_go_on(experiment, capfd, monkeypatch):
    bad = "raises,cannotstart,notfinite,exits,killed"
    assert run(f"{bad},still,rare", experiment) == 1
    out = capfd.readouterr().out.splitlines()
    expected = {
        "raises": ("failed", "ValueError: two lines with [/bold] markup (runs.py:"),
        "cannotstart": ("failed", "MemoryError: too large"),
        "notfinite": ("diverged", "loss not finite at step 10"),
        "exits": ("failed", "worker process died (exit code 7)"),
        "killed": ("failed", "worker process died (signal 9: killed, or out of memory)"),
    }
    for algo, (status, reason) in expected.items():
        last = [line for line in out if line.startswith(f"mbbl/Pendulum {algo} seed 0: ")][-1]
        assert f": {status}: {reason}" in last
        if algo != "cannotstart":
            assert record_of(algo, experiment)["status"] == status
            assert record_of(algo, experiment)["reason"].startswith(reason)
    for algo in ("still", "rare"):
        assert record_of(algo, experiment)["status"] == "done"

    # Again, with the faults mended: what is finished stays as it is, the rest is run.
    good = [cell_of(algo).path(experiment) for algo in ("still", "rare")]
    before = [snapshot(path) for path in good]
    monkeypatch.setattr(local, "work", work_with_mended)
    assert run(f"{bad},still,rare", experiment) == 0
    assert "2 of 7 cells are finished already" in capfd.readouterr().out
    assert [snapshot(path) for path in good] == before
    for algo in expected:
        assert record_of(algo, experiment)["status"] == "done"
        assert record_of(algo, experiment)["reason"] is None


def work_with_mended(*arguments):
    for name in FAKES:
        FAKES[name] = Still
    work_with_fakes(*arguments)


def test_a_finished_sweep_starts_no_worker(experiment, monkeypatch, capfd):
    assert run("still", experiment) == 0
    before = snapshot(experiment)

    def never(*arguments):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(LocalLauncher, "_start", never)
    assert run("still", experiment) == 0
    assert snapshot(experiment) == before
    assert "1 of 1 cells are finished already" in capfd.readouterr().out


def test_a_damaged_checkpoint_is_refused_and_the_others_go_on(experiment, capfd):
    open_experiment(experiment, TINY)
    cell = cell_of("still")
    with pytest.raises(Interrupted):
        run_cell(cell, experiment, should_stop=lambda: True)
    (file,) = RunDirectory(cell, experiment).checkpoints.glob("step-*/tensors.safetensors")
    file.write_bytes(b"")
    before = snapshot(cell.path(experiment))
    assert run("still,rare", experiment) == 1
    out = capfd.readouterr().out
    assert "mbbl/Pendulum still seed 0: refused: checkpoint" in out
    assert "is damaged" in out
    assert snapshot(cell.path(experiment)) == before
    assert record_of("rare", experiment)["status"] == "done"


def test_a_cell_that_another_process_has_is_waited_for(experiment, tmp_path):
    sets = ["sac.hidden=8", "sac.batch_size=8"]
    taken, free = (cell_of("sac", seed=seed, sets=sets) for seed in (0, 1))
    open_experiment(experiment, TINY)
    other = RunDirectory(taken, experiment)
    assert other.lock()
    arguments = ["--algos=sac", "--seeds=2", "--workers=2", "--protocol=tiny", "--no-report"]
    arguments += [f"--experiment={experiment}", *(f"--set={text}" for text in sets)]
    sweep = Forked("sweep", arguments, tmp_path / "log")
    done = '"status": "done"'
    manifest = free.path(experiment) / "run.json"
    wait_until(lambda: manifest.exists() and done in manifest.read_text(), what="the free cell")
    wait_until(lambda: "sac@hidden=8,batch_size=8 seed 0: elsewhere" in sweep.output)
    assert not (taken.path(experiment) / "run.json").exists()
    other.unlock()
    assert sweep.wait() == 0, sweep.output
    assert done in (taken.path(experiment) / "run.json").read_text()


def work_then_die(run, experiment, settings, pipe):
    """Ends the cell and dies before it can tell."""
    algos.load = load_fake
    run_cell(run[0], experiment, settings)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_after_its_work_does_not_undo_it(experiment, monkeypatch):
    monkeypatch.setattr(local, "work", work_then_die)
    assert run("still,notfinite", experiment) == 1
    assert record_of("still", experiment)["status"] == "done"
    assert record_of("notfinite", experiment)["status"] == "diverged"


def test_workers_have_one_thread(experiment, monkeypatch):
    monkeypatch.setattr(local, "work", write_threads)
    experiment.mkdir()
    open_experiment(experiment, TINY)
    run("still", experiment)
    threads, name = (experiment / "threads").read_text().split()
    assert (threads, name) == ("1", "1")


def write_threads(cell, experiment, settings, pipe):
    import torch

    from runners.training.process import setup_process

    setup_process()
    text = f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}"
    (experiment / "threads").write_text(text)
    os._exit(0)


def test_the_report_decides_with_the_cells(experiment, monkeypatch):
    arguments = ["--algos=still", "--protocol=tiny", "--seeds=1", f"--experiment={experiment}"]
    seen = []
    for code, expected in ((0, 0), (5, 1)):
        monkeypatch.setattr(sweep, "report", lambda path, code=code: seen.append(path) or code)
        assert sweep.main(arguments) == expected
    assert seen == [experiment, experiment]


def test_old_checkpoints_of_a_kill_are_no_trouble(experiment):
    """A kill between rename and removal leaves two; the newer one counts."""
    open_experiment(experiment, TINY)
    cell = cell_of("still")
    with pytest.raises(Interrupted):
        run_cell(cell, experiment, should_stop=lambda: True)
    folder = RunDirectory(cell, experiment).checkpoints
    (newest,) = folder.glob("step-*")
    newest.rename(folder / "kept")
    save(folder, 0, {"old": True})
    (folder / "partial").mkdir()
    (folder / "kept").rename(folder / "step-000000001")
    assert run("still", experiment) == 0
    assert record_of("still", experiment)["resumed"] == 1


def sleep(cell, experiment, settings, pipe):
    """A worker that has not begun to listen to signals."""
    time.sleep(60)


def test_a_stop_before_a_worker_has_begun_is_no_failure(experiment, monkeypatch, capfd):
    monkeypatch.setattr(local, "work", sleep)
    monkeypatch.setattr(StopFlag, "__call__", lambda flag: True)
    assert run("still", experiment) == 75
    out = capfd.readouterr().out
    assert "still seed 0: stopped" in out
    assert "failed" not in out
    assert out.endswith("stopped and saved; run the same command to go on\n")


def test_workers_of_the_real_command_print_nothing_into_its_table(tmp_path):
    command = ["-m", "runners.sweep", "--protocol=toy", "--algos=sac", "--seeds=1", "--steps=80"]
    done = subprocess.run(
        [sys.executable, *command, "--no-report", f"--experiment={tmp_path / 'e'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
