"""Every mistake of a user: one line on stderr with the bad value, exit code 2, nothing written."""

import json
import os
import re
import shutil
from collections import namedtuple

import pytest

import algos
from runners import sweep, train
from runners.cells.protocols import PROTOCOLS
from runners.storage.rundir import open_experiment
from runners.terminal.cli import run_main
from runners.training.session import run_cell
from tests.helpers.runs import TINY, cell_of, load_fake, snapshot, spawn

ALGOS = ", ".join(algos.list_algos())


@pytest.fixture(autouse=True)
def no_runs(monkeypatch):
    """A mistake that slips through would start a run; that is an error here."""

    def never(*arguments, **options):
        raise AssertionError("a run was started")

    monkeypatch.setitem(PROTOCOLS, "tiny", TINY)
    monkeypatch.setattr("runners.train.View", never)
    monkeypatch.setattr("runners.launchers.local.LocalLauncher", never)
    monkeypatch.setattr("runners.sweep.dry_run", never)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


COMMANDS = {"train": train.main, "sweep": sweep.main}


def refused(capsys, command, arguments, *expected):
    """Run a command that must refuse; returns its one line."""
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: COMMANDS[command](arguments))
    captured = capsys.readouterr()
    assert ended.value.code == 2, captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    for text in expected:
        assert text in captured.err
    return captured.err


SAC = ["--algo=sac", "--task=mbbl/Pendulum"]
BOTH = {"train": SAC, "sweep": ["--algos=sac", "--tasks=mbbl/Pendulum"]}
COMMON = [
    (["--protocol=quik"], ["unknown protocol 'quik'", "quick, diffsr, qvpo", "mean quick?"]),
    (["--steps=0"], ["--steps 0", "at least 1"]),
    (["--steps=-5"], ["--steps -5", "at least 1"]),
    (["--steps", "-5"], ["--steps -5", "at least 1"]),
    (["--steps=abc"], ["--steps", "'abc'", "int"]),
    (["--steps=1.5"], ["--steps", "'1.5'", "int"]),
    (["--device=foo"], ["--device foo", "valid devices are cpu"]),
    (["--device=cpu:3"], ["--device cpu:3", "valid devices are cpu"]),
    (["--device=\nfoo"], ["--device foo", "valid devices are cpu"]),
    (["--checkpoint-seconds=-1"], ["--checkpoint-seconds -1", "0 or more"]),
    (["--checkpoint-seconds=nan"], ["--checkpoint-seconds nan", "0 or more"]),
    (["--checkpoint-seconds=often"], ["--checkpoint-seconds", "'often'"]),
    (["--experiment="], ["--experiment ''", "name or a path"]),
    (["--stepz=5"], ["--stepz=5"]),
    (["--step=5"], ["--step=5"]),
]


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize(("arguments", "expected"), COMMON, ids=lambda value: str(value[0]))
def test_common_arguments(capsys, folder, command, arguments, expected):
    refused(capsys, command, [*BOTH[command], *arguments], *expected)
    assert snapshot(folder) == {}


TRAIN = [
    (["--algo=sax", "--task=mbbl/Ant"], ["unknown algo 'sax'", ALGOS, "mean sac?"]),
    (["--algo=", "--task=mbbl/Ant"], ["unknown algo ''"]),
    (["--algo=sac@quik", "--task=mbbl/Ant"], ["unknown preset 'quik'", "released", "mean quick?"]),
    (["--algo=sac", "--task=mbbl/Halfcheeta"], ["'mbbl/Halfcheeta'", "'mbbl/HalfCheetah'"]),
    (["--algo=sac", "--task=nowhere/x"], ["unknown task 'nowhere/x'", "mbbl"]),
    (["--algo=sac"], ["--task"]),
    ([*SAC, "--set=hiden=3"], ["sac: unknown option 'hiden'", "tau", "did you mean hidden?"]),
    ([*SAC, "--set=hidden=0"], ["option hidden=0", "1 to inf"]),
    ([*SAC, "--set=tau=1.5"], ["option tau=1.5", "0 to 1"]),
    ([*SAC, "--set=tau=nan"], ["option tau=nan", "0 to 1"]),
    ([*SAC, "--set=hidden=big"], ["option hidden=big", "expected int"]),
    ([*SAC, "--set=hidden=1.5"], ["option hidden=1.5", "expected int"]),
    ([*SAC, "--set=time_limit_terminal=maybe"], ["time_limit_terminal=maybe", "true or false"]),
    ([*SAC, "--set=precision=float8"], ["precision=float8", "float32, tf32, bfloat16"]),
    ([*SAC, "--set=temperature=fix"], ["temperature=fix", "learned, fixed", "mean fixed?"]),
    ([*SAC, "--set=hidden"], ["--set hidden", "OPTION=VALUE"]),
    ([*SAC, "--set=hidden="], ["--set hidden=", "OPTION=VALUE"]),
    ([*SAC, "--set="], ["--set", "OPTION=VALUE"]),
    ([*SAC, "--seed=-1"], ["--seed -1", "one number, 0 or more"]),
    ([*SAC, "--seed=x"], ["--seed x", "one number, 0 or more"]),
    ([*SAC, "--seed="], ["--seed", "one number, 0 or more"]),
    ([*SAC, "--seed=0,1"], ["--seed 0,1", "one number, 0 or more"]),
    ([*SAC, "--seeds=0,1"], ["--seeds 0,1", "one number", "runners.sweep takes several"]),
    ([*SAC, "--seeds=4"], ["--seeds 4", "one number", "runners.sweep takes several"]),
    ([*SAC, "--seeds=x"], ["--seeds x", "a count like 4"]),
    ([*SAC, "--seeds=1", "--seed=0"], ["--seed: not allowed with argument --seeds"]),
    (["--algos=sac,td3", "--task=mbbl/Ant"], ["--algo sac,td3", "runners.sweep takes several"]),
    (["--algo=sac", "--tasks=mbbl/Ant,mbbl/Hopper"], ["--task mbbl/Ant,", "sweep takes several"]),
    (["--help-algo=sax"], ["unknown algo 'sax'", ALGOS, "mean sac?"]),
    (["--help-algo=none.py"], ["'none.py'", "no such file"]),
]


@pytest.mark.parametrize(("arguments", "expected"), TRAIN, ids=lambda value: str(value[-1]))
def test_arguments_of_train(capsys, folder, arguments, expected):
    refused(capsys, "train", arguments, *expected)
    assert snapshot(folder) == {}


SWEEP = [
    (["--algos=sac,sax"], ["unknown algo 'sax'", ALGOS, "mean sac?"]),
    (["--algos="], ["--algos ''", ALGOS]),
    (["--algos=,"], ["--algos ''", ALGOS]),
    (["--tasks="], ["--tasks ''", "mbbl/HalfCheetah"]),
    (["--tasks=mbbl/Ant,mbbl/Antt"], ["'mbbl/Antt'", "did you mean 'mbbl/Ant'"]),
    (["--seeds=x"], ["--seeds x", "a count like 4"]),
    (["--seeds=-1"], ["--seeds -1", "a count like 4"]),
    (["--seeds", "-1"], ["--seeds -1", "a count like 4"]),
    (["--seeds="], ["--seeds", "a count like 4"]),
    (["--seeds=0"], ["--seeds 0", "a count like 4"]),
    (["--seed=x"], ["--seed x", "one number, 0 or more"]),
    (["--seed="], ["--seed", "one number, 0 or more"]),
    (["--seed=1", "--seeds=1"], ["--seeds: not allowed with argument --seed"]),
    (["--algo=sac,sax"], ["unknown algo 'sax'", ALGOS, "mean sac?"]),
    (["--task=mbbl/Antt"], ["'mbbl/Antt'", "did you mean 'mbbl/Ant'"]),
    (["--help-algo=sax"], ["unknown algo 'sax'", ALGOS, "mean sac?"]),
    (["--workers=0"], ["--workers 0", "at least 1"]),
    (["--workers=-2"], ["--workers -2", "at least 1"]),
    (["--workers=two"], ["--workers", "'two'"]),
    (["--set=hidden=3"], ["--set hidden=3", "ALGO.OPTION=VALUE"]),
    (["--set=sac.hidden"], ["--set sac.hidden", "ALGO.OPTION=VALUE"]),
    (["--algos=sac", "--set=qvpo.hidden=3"], ["'qvpo' is not among --algos sac"]),
    (["--set=sac.hidden=0"], ["sac: option hidden=0", "1 to inf"]),
    (["--algos=sac@quik"], ["sac: unknown preset 'quik'", "mean quick?"]),
]


@pytest.mark.parametrize(("arguments", "expected"), SWEEP, ids=lambda value: str(value[0]))
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry"])
def test_arguments_of_sweep(capsys, folder, arguments, expected, dry):
    refused(capsys, "sweep", [*arguments, *dry], *expected)
    assert snapshot(folder) == {}


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_cuda_device_that_is_not_there(capsys, folder, monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command, arguments in BOTH.items():
        text = refused(capsys, command, [*arguments, f"--device={device}"], f"--device {device}")
        assert "valid devices are cpu (torch sees no CUDA device here)" in text
    assert snapshot(folder) == {}


def test_cuda_devices_that_are_there_are_listed(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    refused(
        capsys, "train", [*SAC, "--device=cuda:2"], "valid devices are cpu, cuda, cuda:0, cuda:1"
    )


def experiment_texts():
    good = {"format": 1, "name": "e", "protocol": TINY.manifest()}
    return {
        "format": (good | {"format": 9}, "made in format 9, this version reads 1"),
        "protocol": (
            good | {"protocol": TINY.manifest() | {"eval_every": 21}},
            "holds cells with eval_every=21, not 20",
        ),
        "steps": (good | {"protocol": TINY.manifest() | {"steps": 9}}, "steps=9, not 60"),
        "keys": ({"format": 1}, "experiment.json cannot be read"),
        "list": ([1], "experiment.json cannot be read"),
        "null": (None, "experiment.json cannot be read"),
        "half": ("{", "experiment.json cannot be read"),
        "binary": (b"\xff\xfe", "experiment.json cannot be read"),
    }


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize("kind", experiment_texts())
def test_experiments_of_another_kind(capsys, folder, command, kind):
    content, expected = experiment_texts()[kind]
    (folder / "e").mkdir()
    file = folder / "e" / "experiment.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    before = snapshot(folder)
    arguments = [*BOTH[command], "--protocol=tiny", f"--experiment={folder}/e"]
    refused(capsys, command, arguments, f"--experiment {folder}/e", expected)
    assert snapshot(folder) == before


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_folders_that_are_no_experiments(capsys, folder, command):
    (folder / "file").write_text("mine")
    (folder / "full").mkdir()
    (folder / "full" / "thesis.tex").write_text("mine")
    before = snapshot(folder)
    for name, expected in (
        ("file", "is no experiment"),
        ("full", "is no experiment"),
        ("file/below", "cannot write"),
        ("x" * 300, "File name too long"),
    ):
        arguments = [*BOTH[command], f"--experiment={folder}/{name}"]
        refused(capsys, command, arguments, f"{folder}/{name}", expected)
    assert snapshot(folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_folders_that_cannot_be_written(capsys, folder, command):
    (folder / "locked").mkdir(mode=0o500)
    arguments = [*BOTH[command], f"--experiment={folder}/locked/e"]
    refused(capsys, command, arguments, f"{folder}/locked/e", "Permission denied")


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_folder_that_refuses_to_be_made(capsys, folder, command, monkeypatch):
    def mkdir(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", mkdir)
    arguments = [*BOTH[command], f"--experiment={folder}/e"]
    refused(
        capsys, command, arguments, f"--experiment {folder}/e: cannot write (Permission denied)"
    )
    assert snapshot(folder) == {}


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_no_free_disk(capsys, folder, command, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 7 << 20))
    arguments = [*BOTH[command], f"--experiment={folder}/deep/e"]
    refused(capsys, command, arguments, f"--experiment {folder}/deep/e", "7 MB free", "MB needed")
    assert snapshot(folder) == {}
    assert not (folder / "deep").exists()


@pytest.fixture
def finished(folder, monkeypatch):
    """An experiment with one finished cell."""
    open_experiment(folder / "e", TINY)
    with monkeypatch.context() as patch:
        patch.setattr(algos, "load", load_fake)
        cell = cell_of("still")
        assert run_cell(cell, folder / "e") == "done"
    sac = cell_of("sac")
    path = sac.path(folder / "e")
    path.parent.mkdir(parents=True)
    cell.path(folder / "e").rename(path)
    return sac, path


ENDS = ["run", "dry"]


def set_record(sac, path, **changes):
    record = json.loads((path / "run.json").read_text())
    record |= {"cell": sac.identity, "config": dict(sac.config)} | changes
    (path / "run.json").write_text(json.dumps(record))


def attempts(folder):
    arguments = {name: [*BOTH[name], "--protocol=tiny"] for name in BOTH}
    for command in ("train", "sweep"):
        yield command, [*arguments[command], f"--experiment={folder}/e", *SEEDS[command]]


SEEDS = {"train": ["--seed=0"], "sweep": ["--seeds=1"]}


def test_a_cell_with_other_option_values(capsys, folder, finished, monkeypatch):
    allow_view(monkeypatch)
    sac, path = finished
    set_record(sac, path, cell="0" * 16, config={**sac.config, "tau": 0.25})
    before = snapshot(folder)
    for command, arguments in attempts(folder):
        refused(capsys, command, arguments, str(path), "tau=0.25, not 0.005", "--experiment")
        assert snapshot(folder) == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1, "status": "done"}'])
def test_a_corrupt_run_json(capsys, folder, finished, monkeypatch, text):
    allow_view(monkeypatch)
    _, path = finished
    (path / "run.json").write_text(text)
    before = snapshot(folder)
    for command, arguments in attempts(folder):
        refused(capsys, command, arguments, str(path))
        assert snapshot(folder) == before


def test_a_corrupt_checkpoint(capsys, folder, finished, monkeypatch):
    allow_view(monkeypatch)
    sac, path = finished
    set_record(sac, path, status="running")
    (path / "checkpoint" / "step-000000010").mkdir(parents=True)
    (path / "checkpoint" / "step-000000010" / "manifest.json").write_text("{")
    (path / "checkpoint" / "lock").touch()
    before = snapshot(folder)
    command, arguments = next(attempts(folder))
    refused(capsys, command, arguments, "checkpoint", "is damaged", "remove")
    assert snapshot(folder) == before


def allow_view(monkeypatch):
    from runners.terminal.progress import View

    monkeypatch.setattr("runners.train.View", View)


def test_an_unexpected_fault_is_not_hidden():
    def broken():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_main(broken)


def test_files_that_fail_are_named(capsys):
    def broken():
        open("/nowhere/at/all").close()

    with pytest.raises(SystemExit) as ended:
        run_main(broken)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: /nowhere/at/all: No such file or directory\n"


def test_ctrl_c_before_the_start_is_one_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_main(interrupted)
    assert ended.value.code == 75
    assert re.fullmatch(r"stopped; run the same command to go on\n", capsys.readouterr().err)


def test_the_real_command_line(folder):
    process = spawn("runners.train", ["--algo=sax", "--task=mbbl/Ant"], folder / "log")
    assert process.wait(120) == 2
    expected = "error: unknown algo 'sax': valid algos are "
    text = (folder / "log").read_text()
    assert text.startswith(expected)
    assert text.count("\n") == 1
