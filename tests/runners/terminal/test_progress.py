"""What a user sees: lines, the table, a dry run, estimates; and what the runner imports."""

import ast
import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import runners
from runners import sweep
from runners.cells.protocols import PROTOCOLS
from runners.terminal import progress
from runners.terminal.progress import MOST_ROWS, View, clock, make_console
from runners.training.estimate import estimate, estimates, tensor_bytes
from tests.helpers.runs import ROOT, TINY, cell_of, snapshot

SMALL_SETS = ["sac.hidden=8", "sac.batch_size=8"]


class Clock:
    """Time that passes when told."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(progress, "time", fake)
    return fake


def cells(count):
    return [cell_of("sac", seed=seed) for seed in range(count)]


def plain(some):
    file = io.StringIO()
    console = Console(file=file, width=200, markup=False, emoji=False, highlight=False)
    return View(some, console, "title"), file


def terminal(some, width=140):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=60, markup=False)
    return View(some, console, "title"), file


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (12.4, "12s"), (59.4, "59s"), (59.6, "1m00s"), (185, "3m05s"), (3599.6, "1h00m")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_clock_of_hours():
    assert clock(7620) == "2h07m"
    assert clock(360_000) == "100h00m"


def test_rates_ignore_what_was_resumed(time):
    view, _ = plain(cells(1))
    (row,) = view.rows.values()
    row.begin()
    assert (row.rate, row.eta) == (None, None)
    row.update(40, None)
    assert (row.rate, row.eta) == (None, None)
    time.now += 2.0
    row.update(50, -1.0)
    assert row.rate == pytest.approx(5.0)
    assert row.eta == pytest.approx((TINY.steps - 50) / 5.0)


def test_plain_lines_come_at_changes_and_now_and_then(time):
    view, file = plain(cells(2))
    first, _ = view.rows.values()
    with view:
        first.begin()
        for _ in range(100):
            time.now += 0.1
            first.update(first.step + 1, None)
            view.refresh()
        assert file.getvalue().count("\n") == 1
        time.now += 15.0
        view.refresh()
        assert file.getvalue().count("\n") == 2
        first.end("failed", "ValueError: [/bold] :smile: [red]")
    text = file.getvalue()
    assert "\x1b" not in text
    assert text.splitlines()[-1] == (
        "mbbl/Pendulum sac seed 0: failed, last return -: ValueError: [/bold] :smile: [red]"
    )
    assert "seed 1" not in text  # still waiting


def test_the_table_shows_every_cell(time):
    some = cells(4)
    view, file = terminal(some)
    running, failed, done, _ = view.rows.values()
    with view:
        running.begin()
        running.update(10, None)
        time.now += 4.0
        running.update(30, -123.456)
        failed.end("failed", "ValueError: [/bold] [red]")
        done.update(60, 1234.5)
        done.end("done", None)
        view.refresh()
    last = file.getvalue().split("title: 2/4 cells")[-1]
    for text in ("30/60", "-123.5", "6s", "failed: ValueError: [/bold] [red]", "1,234.5"):
        assert text in last
    assert [last.index(f"seed {i}") for i in range(4)] == sorted(
        last.index(f"seed {i}") for i in range(4)
    )
    assert "\x1b[" in file.getvalue()


def test_a_long_table_is_cut_and_says_so(time):
    view, file = terminal(cells(MOST_ROWS + 6))
    with view:
        pass
    assert "... and 6 more" in file.getvalue()


def test_the_view_is_drawn_twice_a_second_at_most(time, monkeypatch):
    view, _ = terminal(cells(1))
    drawn = []
    with view:
        monkeypatch.setattr(view.live, "update", lambda *_, **__: drawn.append(time.now))
        for _ in range(1000):
            time.now += 0.01
            view.refresh()
        assert 15 <= len(drawn) <= 20
        drawn.clear()
        view.refresh(final=True)
        assert len(drawn) == 1


def test_files_get_wide_lines_without_markup(capsys):
    make_console().print("[red]" + "x" * 150 + "[/bold]")
    assert capsys.readouterr().out == "[red]" + "x" * 150 + "[/bold]\n"


# Dry run and estimates ------------------------------------------------------------------


@pytest.fixture
def quick_probe(monkeypatch):
    monkeypatch.setattr("runners.training.estimate.PROBE_SECONDS", 0.05)
    monkeypatch.setitem(PROTOCOLS, "tiny", TINY)


def test_a_dry_run_prints_every_cell_and_writes_nothing(tmp_path, monkeypatch, capsys, quick_probe):
    monkeypatch.chdir(tmp_path)
    arguments = ["--dry-run", "--algos=sac", "--tasks=mbbl/Pendulum,mbbl/InvertedPendulum"]
    arguments += ["--seeds=0,4", "--protocol=tiny", "--workers=3", "--experiment=[e]"]
    arguments += [f"--set={text}" for text in SMALL_SETS]
    assert sweep.main(arguments) == 0
    out = capsys.readouterr().out
    for task in ("mbbl/Pendulum", "mbbl/InvertedPendulum"):
        for seed in (0, 4):
            assert f"{task} sac@hidden=8,batch_size=8 seed {seed}" in out
    assert "4 cells for results/[e], 3 workers" in out
    assert "about " in out.splitlines()[-1]
    assert "of memory" in out.splitlines()[-1]
    assert snapshot(tmp_path) == {}
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_a_dry_run_says_when_the_disk_is_full(tmp_path, monkeypatch, capsys, quick_probe):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("runners.terminal.machine.FREE_BYTES", 1 << 60)
    arguments = ["--dry-run", "--algos=sac", "--tasks=mbbl/Pendulum", "--seeds=1"]
    assert sweep.main([*arguments, "--protocol=tiny", *(f"--set={t}" for t in SMALL_SETS)]) == 2
    assert "this would be refused: --experiment results/tiny: " in capsys.readouterr().out
    assert snapshot(tmp_path) == {}


def test_estimates_are_positive_and_grow_with_steps(quick_probe):
    costs = []
    for steps in (1000, 200_000):
        rules = dataclasses.replace(TINY, steps=steps, eval_every=steps)
        costs.append(estimate(cell_of("sac", protocol=rules, sets=SMALL_SETS), "cpu"))
    small, large = costs
    assert 0 < small.seconds < large.seconds
    assert 0 < small.disk < small.memory
    row = 4 * (3 + 1 + 1 + 3 + 1)
    assert large.disk - small.disk == pytest.approx(199_000 * row, rel=0.01)


def test_a_full_memory_does_not_grow(quick_probe):
    sets = [*SMALL_SETS, "sac.replay_capacity=5000"]
    disks = []
    for steps in (10_000, 20_000):
        rules = dataclasses.replace(TINY, steps=steps)
        disks.append(estimate(cell_of("sac", protocol=rules, sets=sets), "cpu").disk)
    assert disks[0] == disks[1]


def test_learning_is_timed_behind_the_users_random_steps(quick_probe, monkeypatch):
    from algos.sac import SAC

    learned = []
    monkeypatch.setattr(SAC, "learn", lambda agent: learned.append(1) or {})
    rules = dataclasses.replace(TINY, steps=5000)
    cell = cell_of("sac", protocol=rules, sets=[*SMALL_SETS, "sac.random_steps=700"])
    estimate(cell, "cpu")
    assert learned


def test_cells_that_differ_in_their_seed_are_probed_once(monkeypatch):
    probed = []
    monkeypatch.setattr(
        "runners.training.estimate.estimate", lambda cell, device: probed.append(cell)
    )
    assert len(estimates([*cells(3), cell_of("qvpo")], "cpu")) == 4
    assert [cell.algo for cell in probed] == ["sac", "qvpo"]


def test_tensor_bytes():
    import torch

    state = {"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.uint8), (1, "x")]}
    assert tensor_bytes(state) == 14


# Who imports whom -----------------------------------------------------------------------


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_the_runner_imports_nothing_of_analysis():
    folder = Path(runners.__file__).parent
    files = list(folder.rglob("*.py"))
    assert len(files) > 10
    for file in files:
        assert "analysis" not in imported(file), file.name
    for file in (ROOT / "algos").rglob("*.py"):
        assert not {"envs", "runners", "analysis"} & set(imported(file)), file.name


def test_the_report_runs_in_a_process_of_its_own(tmp_path, monkeypatch):
    seen = []

    def run(command, **options):
        seen.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    assert sweep.report(tmp_path) == 3
    assert seen == [[sys.executable, "-m", "analysis.report", str(tmp_path)]]
