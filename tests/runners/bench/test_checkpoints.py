"""The benchmark of checkpoints: what it counts, and bad input."""

import json

import pytest
import torch

from algos.parts.blocks import Ring
from runners.bench import checkpoints as bench_checkpoint
from runners.terminal.cli import run_main


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(bench_checkpoint, "time_learning", lambda agent, seconds: (0.5, 0))
    monkeypatch.setattr(Ring, "BYTES", 1 << 12)  # 24 rows at HalfCheetah's sizes


ROW = 4 * (17 + 6 + 1 + 17 + 1)  # bytes


def test_new_steps_are_written_and_old_ones_are_only_named(tmp_path):
    small, large = (
        bench_checkpoint.measure("sac", 3, torch.device("cpu"), tmp_path, stored)
        for stored in (600, 6_000)
    )
    assert small.steps == large.steps == 120  # in 60 s at half a second each
    # As much of a large memory as of a small one, to a segment and its name; in full it is more.
    assert abs(large.mb - small.mb) < 0.1
    assert large.full_mb - small.full_mb == pytest.approx(5_400 * ROW / 1e6, rel=0.1)
    assert large.mb < large.full_mb / 1.2
    assert large.share == pytest.approx(large.ms / 60_000)
    assert list(tmp_path.iterdir()) == []


def test_steps_between_checkpoints_are_capped(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_checkpoint, "MOST_STEPS", 30)
    assert bench_checkpoint.measure("sac", 1, torch.device("cpu"), tmp_path, 100).steps == 30


def test_the_table_and_the_numbers_agree(capsys, tmp_path):
    file = tmp_path / "costs.json"
    arguments = ["--algos=td3,sac", "--stored=200", "--repeats=1"]
    assert bench_checkpoint.main([*arguments, f"--folder={tmp_path}", f"--json={file}"]) == 0
    costs = json.loads(file.read_text())["costs"]
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [cost["algo"] for cost in costs] == ["td3", "sac"]
    for cost, line in zip(costs, lines, strict=True):
        assert line.split()[:3] == [cost["algo"], "200", "120"]
        assert f"{cost['share']:.2%}" in line.split()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--algos=drqv2", "--algos drqv2: it takes no state observations"),
        ("--algos=sca", "sca"),
        ("--repeats=0", "--repeats 0: must be at least 1"),
        ("--stored=0", "--stored 0: must be at least 1"),
        ("--folder=/no/such", "--folder /no/such: no such folder"),
        ("--json=/no/such/file", "--json /no/such/file: its folder does not exist"),
    ],
)
def test_bad_input_is_one_line(capsys, argument, words):
    with pytest.raises(SystemExit) as left:
        run_main(lambda: bench_checkpoint.main([argument]))
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
