"""Sinks: what they get, what they cannot change, and what happens when they fail."""

import json
import multiprocessing
import os
import random
import signal
import sqlite3
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analysis.data import load as analysis_load
from runners.cells.errors import UserError
from runners.cells.settings import RunSettings
from runners.launchers.local import PRELOAD
from runners.storage.rundir import RunDirectory, open_experiment
from runners.training import tracking
from runners.training.tracking import FOLDER, Sinks, Target, check_sinks, open_sinks
from runners.training.worker import run_here
from tests.helpers.runs import TINY, cell_of, files_of
from tests.helpers.selection import mostly_extended

SETS = ["sac.hidden=8", "sac.batch_size=8"]
STEPS = {"train": [20, 30, 40, 50, 60], "eval": [20, 40, 60]}  # 10 random steps come first


def run_of(*seeds):
    return tuple(cell_of("sac", seed=seed, sets=SETS) for seed in seeds)


def _train(run, experiment, names, stop_at, kill_at):
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
    step = 0

    def report(progress):
        nonlocal step
        step = progress.step
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = RunSettings(checkpoint_seconds=1e9, track=names)
    run_here(run, experiment, settings, lambda: step == stop_at, report)


def train(run, experiment, names=(), stop_at=None, kill_at=None):
    """Runs in a process of its own: packages of sinks read their settings when imported."""
    open_experiment(experiment, TINY)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    arguments = (run, experiment, names, stop_at, kill_at)
    process = context.Process(target=_train, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode == (0 if kill_at is None else -signal.SIGKILL)


# Reading back what a sink has of a cell: (name, step, value) in the order of writing -------


def read_tensorboard(experiment, cell):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(cell.path(experiment / FOLDER / "tensorboard")))
    tags = accumulator.Reload().Tags()["scalars"]
    return [(tag, event.step, event.value) for tag in tags for event in accumulator.Scalars(tag)]


def wandb_records(file):
    """A log of LevelDB: blocks of 32 KiB, in them pieces of checksum, length, kind and data."""
    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 2**15 - place % 2**15 < 7:  # no piece begins so late in a block
            place += 2**15 - place % 2**15
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def read_wandb(experiment, cell):
    record, found = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record(), []
    folder = experiment / FOLDER / "wandb"
    for file in sorted(folder.glob(f"offline-run-*/run-{cell.identity}.wandb")):
        for data in wandb_records(file):
            record.ParseFromString(data)
            for item in record.history.item:
                name = item.key or ".".join(item.nested_key)
                if not name.startswith("_"):
                    found.append((name, record.history.step.num, json.loads(item.value_json)))
    return found


def read_trackio(experiment, cell):
    (file,) = (experiment / FOLDER / "trackio").glob("*.db")
    with sqlite3.connect(file) as connection:
        query = "SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id"
        rows = connection.execute(query, [f"{cell.name} {cell.identity}"]).fetchall()
    return [(name, step, v) for step, text in rows for name, v in json.loads(text).items()]


READ = {"tensorboard": read_tensorboard, "wandb": read_wandb, "trackio": read_trackio}


def steps_of(found, kind):
    names = {name for name, *_ in found if name.startswith(f"{kind}/")}
    assert names
    return {tuple(step for other, step, _ in found if other == name) for name in names}


def evaluations(experiment, cell):
    """Mean return by step, from the file."""
    rows = np.loadtxt(
        cell.path(experiment) / "evaluations.csv", delimiter=",", skiprows=1, usecols=(0, 2)
    )
    return {int(step): rows[rows[:, 0] == step, 1].mean() for step in np.unique(rows[:, 0])}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two seeds in one process, without a sink."""
    experiment = tmp_path_factory.mktemp("plain") / "e"
    train(run_of(0, 1), experiment)
    return experiment


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One seed, neither killed nor with a sink."""
    experiment = tmp_path_factory.mktemp("alone") / "e"
    train(run_of(0), experiment)
    return experiment


@pytest.mark.parametrize("name", mostly_extended(READ, quick=["tensorboard"]))
def test_a_sink_gets_what_the_files_hold_and_changes_none(name, tmp_path, plain):
    pytest.importorskip(name)
    run, experiment = run_of(0, 1), tmp_path / "[e] é"
    train(run, experiment, (name,))
    for cell in run:
        assert files_of(cell.path(experiment)) == files_of(cell.path(plain))
        found = READ[name](experiment, cell)
        for kind, steps in STEPS.items():
            assert steps_of(found, kind) == {tuple(steps)}
        assert {"eval/return", "eval/length", "train/q"} <= {key for key, *_ in found}
        returns = {step: value for key, step, value in found if key == "eval/return"}
        assert returns == pytest.approx(evaluations(experiment, cell), rel=1e-6)
    held = {path.name for path in run[0].path(experiment).iterdir()}
    assert held == {path.name for path in run[0].path(plain).iterdir()}
    assert analysis_load.load(experiment).runs["status"].tolist() == ["done", "done"]
    open_experiment(experiment, TINY)


@pytest.mark.parametrize("name", mostly_extended(READ, quick=["tensorboard"]))
def test_a_killed_run_goes_on_in_the_same_place(name, tmp_path, alone):
    pytest.importorskip(name)
    (cell,) = run = run_of(0)
    train(run, tmp_path / "e", (name,), kill_at=25)  # before the first checkpoint
    train(run, tmp_path / "e", (name,), stop_at=30)
    train(run, tmp_path / "e", (name,), kill_at=55)
    train(run, tmp_path / "e", (name,))
    assert files_of(cell.path(tmp_path / "e")) == files_of(cell.path(alone))
    found = READ[name](tmp_path / "e", cell)
    for kind, steps in STEPS.items():
        (seen,) = steps_of(found, kind)
        assert sorted(set(seen)) == steps
        if name == "tensorboard":
            assert list(seen) == steps
    # What was told twice was told equally.
    assert len({(key, step, value) for key, step, value in found}) == len(
        {(key, step) for key, step, _ in found}
    )


# Sinks that misbehave -----------------------------------------------------------------


class Keeps:
    def __init__(self, target):
        self.got, self.closed = [], 0
        Keeps.last = self

    def scalars(self, step, values):
        self.got.append((step, values))

    def close(self):
        self.closed += 1


class FailsToOpen(Keeps):
    def __init__(self, target):
        raise OSError("no\nroute")


class FailsToSend(Keeps):
    def scalars(self, step, values):
        super().scalars(step, values)
        raise RuntimeError("server is away")


class FailsToClose(Keeps):
    def close(self):
        super().close()
        raise TimeoutError("upload")


class Draws(Keeps):
    def __init__(self, target):
        super().__init__(target)
        self.draw()

    def scalars(self, step, values):
        self.draw()

    def close(self):
        self.draw()

    def draw(self):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)


@pytest.fixture
def fakes(monkeypatch):
    kinds = (Keeps, FailsToOpen, FailsToSend, FailsToClose, Draws)
    monkeypatch.setattr(tracking, "SINKS", {kind.__name__: kind for kind in kinds})


def sinks_of(*names):
    return Sinks(names, Target(None, "e", None, {}, -1))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("FailsToOpen", "OSError: no route"),
        ("FailsToSend", "RuntimeError: server is away"),
        ("FailsToClose", "TimeoutError: upload"),
    ],
)
def test_a_sink_that_fails_is_switched_off_and_the_others_go_on(kind, reason, fakes):
    sinks = sinks_of(kind, "Keeps")
    good = Keeps.last
    sinks.scalars(1, {"a": 1.0})
    sinks.scalars(2, {"a": 2.0})
    sinks.close()
    assert sinks.notices == [f"--track {kind} is off: {reason}"]
    assert good.got == [(1, {"a": 1.0}), (2, {"a": 2.0})]
    assert good.closed == 1


def test_a_failed_sink_is_not_asked_again(fakes):
    sinks = sinks_of("FailsToSend")
    sink = Keeps.last
    for step in (1, 2):
        sinks.scalars(step, {"a": 1.0})
    sinks.close()
    assert (len(sink.got), sink.closed) == (1, 0)


def test_values_that_are_not_finite_are_left_out(fakes):
    sinks = sinks_of("Keeps")
    sinks.scalars(1, {"a": float("nan"), "b": 2, "c": float("inf")})
    sinks.scalars(2, {"a": float("nan")})
    assert Keeps.last.got == [(1, {"b": 2.0})]


def streams():
    legacy = np.random.get_state()  # noqa: NPY002
    return random.getstate(), legacy[1].tobytes(), legacy[2:], torch.get_rng_state().tolist()


def test_global_random_streams_stay_as_they_are(fakes):
    before = streams()
    sinks = sinks_of("Draws")
    sinks.scalars(1, {"a": 1.0})
    sinks.close()
    assert sinks.notices == []
    assert streams() == before


# What a user asks for -----------------------------------------------------------------


def test_what_is_kept_is_the_last_step_in_the_files(tmp_path, monkeypatch):
    targets = []
    monkeypatch.setattr(tracking, "Sinks", lambda names, target: targets.append(target))
    (cell,) = run_of(0)
    directory = RunDirectory(cell, tmp_path / "e x")
    open_sinks((), cell, directory, {"hidden": 8})
    directory.text["evaluations"] = "env_step,episode\n20,0\n20,1\n"
    directory.text["train"] = "env_step,loss\n10,0.5\n"
    open_sinks((), cell, directory, {})
    assert [target.kept for target in targets] == [-1, 20]
    assert (targets[0].project, targets[0].folder) == ("e-x", tmp_path / "e x" / FOLDER)
    assert targets[0].config | {"algo": "sac", "seed": 0, "hidden": 8} == targets[0].config


def test_names_of_sinks(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(tracking, "_check_account", lambda: None)
    assert check_sinks(None) == check_sinks("") == ()
    assert check_sinks("wandb, tensorboard,wandb") == ("wandb", "tensorboard")
    with pytest.raises(UserError, match="--track mlflow: valid sinks are tensorboard, wandb, "):
        check_sinks("tensorboard,mlflow")
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"trackio is not installed; pip install -e '.\[tracking\]"):
        check_sinks("trackio")


@pytest.mark.parametrize(
    ("mode", "account", "refused"),
    [("online", False, True), ("online", True, False), ("offline", False, False)],
)
def test_wandb_online_needs_an_account(mode, account, refused, monkeypatch):
    settings = SimpleNamespace(settings=SimpleNamespace(mode=mode))
    fake = SimpleNamespace(setup=lambda: settings, login=lambda **_: account)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    if not refused:
        tracking._check_account()
        return
    with pytest.raises(UserError, match="run `wandb login`, or set WANDB_MODE=offline"):
        tracking._check_account()
