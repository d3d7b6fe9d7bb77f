"""Faults of workers, clocks and losses: each is injected, told, and loses nothing."""

import dataclasses
import itertools
import json
import math
import signal
import time

import pytest

from algos.parts import precision
from runners import sweep
from runners.cells.settings import RunSettings
from runners.storage import checkpoint
from runners.storage.rundir import RunDirectory
from runners.training.loop import Interrupted, Loop
from runners.training.session import run_cell
from tests.helpers.runs import (
    FAKES,
    TINY,
    Slow,
    Still,
    cell_of,
    files_of,
)

pytestmark = pytest.mark.usefixtures("sweeps_of_fakes")


def run_sweep(names, experiment, *more):
    arguments = [f"--algos={names}", "--protocol=tiny", "--workers=1", "--no-report"]
    return sweep.main([*arguments, f"--experiment={experiment}", *more])


def record_of(cell, experiment):
    return json.loads((cell.path(experiment) / "run.json").read_text())


def same_but_for_the_name(cell, experiment):
    """The files of a faulty `Still` are those of `still`, whose agent has another seed."""
    still = cell_of("still", protocol=cell.protocol)
    whole = experiment.parent / "whole"
    assert run_cell(still, whole) == "done"
    ours, theirs = files_of(cell.path(experiment)), files_of(still.path(whole))
    assert ours["evaluations.csv"] == theirs["evaluations.csv"]


# Workers that stall ---------------------------------------------------------------------


def test_a_stalled_worker_is_killed_and_its_run_goes_on(tmp_path):
    cell, experiment = cell_of("hangs"), tmp_path / "e"
    more = ["--step-timeout=3", "--checkpoint-seconds=0"]
    assert run_sweep("hangs,still", experiment, *more) == 0
    record = record_of(cell, experiment)
    assert (record["status"], record["resumed"]) == ("done", 1)
    same_but_for_the_name(cell, experiment)


@pytest.mark.extended
def test_a_worker_that_always_stalls_is_given_up(tmp_path, capfd):
    cell = cell_of("hangsalways")
    experiment = tmp_path / "e"
    assert run_sweep("hangsalways,still", experiment, "--step-timeout=2") == 1
    out = capfd.readouterr().out
    reason = "no step within 2 s (--step-timeout), 3 times"
    assert f"mbbl/Pendulum hangsalways seed 0: failed: {reason}" in out
    assert record_of(cell, experiment)["reason"] == reason
    assert record_of(cell_of("still"), experiment)["status"] == "done"


# Memory ---------------------------------------------------------------------------------


def test_a_run_without_memory_is_named_and_the_others_go_on(tmp_path, capfd):
    experiment = tmp_path / "e"
    assert run_sweep("hungry,killed,still", experiment) == 1
    out = capfd.readouterr().out
    assert "mbbl/Pendulum hungry seed 0: failed: RuntimeError" in out
    assert "allocate" in record_of(cell_of("hungry"), experiment)["reason"]
    # The system's own answer to a lack of memory is SIGKILL.
    died = "worker process died (signal 9: killed, or out of memory)"
    assert f"mbbl/Pendulum killed seed 0: failed: {died}" in out
    assert record_of(cell_of("killed"), experiment)["reason"] == died
    assert record_of(cell_of("still"), experiment)["status"] == "done"


# Another machine ------------------------------------------------------------------------


def test_run_json_says_what_products_are_done_in(tmp_path, monkeypatch):
    """A processor without bfloat16 takes float32, and may take over from one that has it."""
    cell = cell_of("still", sets=["still.precision=bfloat16"])
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)
    steps = itertools.count()
    with pytest.raises(Interrupted):
        run_cell(cell, tmp_path, should_stop=lambda: next(steps) >= 20)
    assert record_of(cell, tmp_path)["precision"] == "bfloat16"
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: False)
    assert run_cell(cell, tmp_path) == "done"
    record = record_of(cell, tmp_path)
    assert record["precision"] == "float32"
    assert record["config"]["precision"] == "bfloat16"
    assert record["earlier"] == {"precision": ["bfloat16"]}
    assert record["notices"] == ["begun in bfloat16, went on in float32"]


# Losses ---------------------------------------------------------------------------------


class Overflows(Still):
    def update(self):
        metrics = super().update()
        return metrics if self.counters.steps < 40 else {"steps": metrics["steps"] * math.inf}


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setitem(FAKES, "overflows", Overflows)
    cell = cell_of("overflows")
    seen = itertools.count()
    with pytest.raises(Interrupted):
        run_cell(cell, tmp_path, should_stop=lambda: next(seen) >= 201 + 30)
    assert run_cell(cell, tmp_path) == "diverged"
    assert record_of(cell, tmp_path)["reason"] == "steps not finite at step 40"
    kept = checkpoint.load(RunDirectory(cell, tmp_path).checkpoints)
    assert 20 < kept.state["step"] < 40
    assert run_cell(cell, tmp_path) == "diverged"
    monkeypatch.setitem(FAKES, "overflows", Still)
    assert run_cell(cell, tmp_path) == "done"
    assert record_of(cell, tmp_path)["resumed"] == 3


# Clocks ---------------------------------------------------------------------------------


def test_clocks_that_jump_change_nothing(tmp_path, monkeypatch):
    """The system's time leaps by days, back and forth; intervals never depend on it."""
    monkeypatch.setitem(FAKES, "still", Slow)
    cell = cell_of(protocol=dataclasses.replace(TINY, steps=20))
    assert run_cell(cell, tmp_path / "whole") == "done"
    jumps = itertools.cycle([0.0, 5e5, -3e6, 1e9, -1e9])
    real, saves = time.time, []
    save = Loop.save
    monkeypatch.setattr(time, "time", lambda: max(0.0, real() + next(jumps)))
    monkeypatch.setattr(Loop, "save", lambda loop: (saves.append(loop.step), save(loop)))
    seen = itertools.count()
    with pytest.raises(Interrupted):
        run_cell(cell, tmp_path / "e", should_stop=lambda: next(seen) >= 10)
    assert saves == [10]  # at the stop; no interval has passed
    assert run_cell(cell, tmp_path / "e", RunSettings(checkpoint_seconds=0.3)) == "done"
    assert 2 <= len(saves) <= 4
    assert files_of(cell.path(tmp_path / "e")) == files_of(cell.path(tmp_path / "whole"))
    assert 0.0 < record_of(cell, tmp_path / "e")["wall_seconds"] < 600.0


# Stops ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_is_heeded_at_the_next_step(tmp_path, number):
    """The signal comes in the middle of step 13; the checkpoint is of that step's end."""
    from runners.training.worker import StopFlag

    stop = StopFlag()

    def report(progress):
        if progress.step == 13:
            signal.raise_signal(number)

    cell = cell_of()
    with pytest.raises(Interrupted):
        run_cell(cell, tmp_path, should_stop=stop, report=report)
    assert checkpoint.load(RunDirectory(cell, tmp_path).checkpoints).state["step"] == 13
    assert run_cell(cell, tmp_path) == "done"


# Disks ----------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_is_noted_and_training_goes_on(tmp_path, monkeypatch):
    cell = cell_of()
    save, broken = checkpoint.save, itertools.chain([True] * 7, itertools.repeat(False))

    def fails(folder, step, *rest):
        if folder.name == "checkpoint" and next(broken):
            raise OSError(28, "No space left on device")
        return save(folder, step, *rest)

    monkeypatch.setattr(checkpoint, "save", fails)
    notices = []
    report = lambda progress: notices.append(progress.notice)  # noqa: E731
    assert run_cell(cell, tmp_path, RunSettings(checkpoint_seconds=0), report=report) == "done"
    text = "no checkpoint at step 6 (No space left on device)"
    assert text in notices
    assert text in record_of(cell, tmp_path)["notices"]
    assert run_cell(cell, tmp_path / "whole") == "done"
    assert files_of(cell.path(tmp_path)) == files_of(cell.path(tmp_path / "whole"))
