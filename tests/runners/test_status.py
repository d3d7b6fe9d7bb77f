"""What `runners.status` says of an experiment, from files that are written here or by real runs."""

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

import envs
from runners import status
from runners.cells.errors import UserError
from runners.cells.schema import PHASES
from runners.storage import experiment_status
from runners.storage.experiment_status import CellStatus, read_status
from runners.storage.lease import Holder, Lease
from runners.storage.manifest import build
from runners.storage.requested import FOLDER, read_requested, write_requested
from runners.storage.rundir import RunDirectory, open_experiment
from tests.helpers.runs import ROOT, TINY, Forked, cell_of, snapshot, wait_until

LONG = dataclasses.replace(TINY, name="long", steps=1_000, eval_every=100)


def cells_of(*seeds, algo="sac"):
    return [cell_of(algo, seed=seed, protocol=LONG) for seed in seeds]


@pytest.fixture
def experiment(tmp_path):
    open_experiment(tmp_path / "e", LONG)
    return tmp_path / "e"


def write_cell(experiment, cell, evaluated=(), pace=0.01, **record):
    """A cell as a run leaves it: evaluations at some steps, each with the step as its return."""
    directory = RunDirectory(cell, experiment)
    directory.checkpoints.mkdir(parents=True)
    directory.write_manifest(build(cell, "cpu") | record)
    rows = [f"{step},{i},{step + i - 0.5},10," for step in evaluated for i in range(2)]
    timing = [f"{step},0,0,{pace * step},0" for step in evaluated]
    headers = "env_step,episode,return,length,success", ",".join(("env_step", *PHASES))
    for name, lines in (("evaluations", [headers[0], *rows]), ("timing", [headers[1], *timing])):
        (directory.path / f"{name}.csv").write_text("".join(f"{line}\n" for line in lines))
    return directory


@pytest.fixture
def holders(monkeypatch):
    """Who has which cell, without processes that hold them."""
    known = {}
    monkeypatch.setattr(experiment_status, "holder", lambda folder: known.get(folder))
    return known


def held(step, alive=True, last_return=None):
    return Holder("far", 77, "2026-01-01T00:00:00+00:00", step, last_return, 3.0, alive)


def by_seed(seen):
    return {cell.seed: cell for cell in seen.cells}


def test_every_kind_of_cell(experiment, holders):
    done, running, dead, failed, again, fresh, planned = cells_of(*range(7))
    write_requested([done, running, planned], experiment)
    write_cell(experiment, done, [100, 1000], status="done", wall_seconds=12.0)
    for cell, holder, record in (
        (running, held(250, last_return=3.5), {"status": "running", "notices": ["fell back"]}),
        (dead, held(120, alive=False), {"status": "running"}),
        (failed, None, {"status": "failed", "reason": "ValueError: [/bold]"}),
        (again, held(10), {"status": "failed", "reason": "ValueError: old"}),
    ):
        directory = write_cell(experiment, cell, [100], **record)
        holders[directory.checkpoints] = holder
    directory = RunDirectory(fresh, experiment)  # has its claim, not yet its run.json
    directory.checkpoints.mkdir(parents=True)
    holders[directory.checkpoints] = held(0)
    seen = read_status(experiment)
    found = by_seed(seen)
    assert {seed: cell.status for seed, cell in found.items()} == {
        0: "done",
        1: "running",
        2: "interrupted",
        3: "failed",
        4: "running",
        5: "running",
        6: "waiting",
    }
    assert [(found[i].step, found[i].last_return) for i in range(4)] == [
        (1000, 1000.0),
        (250, 3.5),
        (100, 100.0),
        (100, 100.0),
    ]
    assert (found[3].reason, found[4].reason) == ("ValueError: [/bold]", "")
    assert found[1].notices == ("fell back",)
    assert found[6] == CellStatus("mbbl/Pendulum", "sac", 6, "waiting")


def test_unreadable_cells_do_not_hide_the_others(experiment, holders):
    bad, worse, good = cells_of(0, 1, 2)
    (write_cell(experiment, bad).path / "run.json").write_text("{")
    (write_cell(experiment, worse, [100]).path / "evaluations.csv").write_text("a\nb\n\0\0,,x\n")
    write_cell(experiment, good, [1000], status="done")
    found = by_seed(read_status(experiment))
    assert [found[i].status for i in range(3)] == ["unreadable", "unreadable", "done"]
    assert "JSONDecodeError" in found[0].reason
    assert "\n" not in found[0].reason


def test_half_written_rows_do_not_count(experiment, holders):
    (cell,) = cells_of(0)
    directory = write_cell(experiment, cell, [100, 200], status="done")
    with (directory.path / "evaluations.csv").open("a") as file:
        file.write("300,0,-9")
    assert by_seed(read_status(experiment))[0].last_return == 200.0


def test_rates_are_of_the_last_two_evaluations(experiment, holders):
    (cell,) = cells_of(0)
    directory = write_cell(experiment, cell, [100], pace=0.5)
    holders[directory.checkpoints] = held(150)
    assert by_seed(read_status(experiment))[0].rate == pytest.approx(2.0)
    with (directory.path / "timing.csv").open("a") as file:
        file.write("200,1,1,58,0\n")  # ten seconds more
    seen = read_status(experiment)
    assert by_seed(seen)[0].rate == pytest.approx(10.0)
    assert seen.eta(by_seed(seen)[0]) == pytest.approx(85.0)  # from step 150, which the claim tells


def test_before_the_first_evaluation_the_claim_tells_the_rate(experiment, holders, monkeypatch):
    (cell,) = cells_of(0)
    directory = write_cell(experiment, cell)
    has = held(50)
    rules = experiment_status._read_protocol(experiment)
    begun = datetime.fromisoformat(has.started)
    # Thirteen seconds after the start, three after the last sign of life.
    monkeypatch.setattr(rules, "now", begun + timedelta(seconds=13))
    monkeypatch.setattr(experiment_status, "_read_protocol", lambda path: rules)
    holders[directory.checkpoints] = has
    assert by_seed(read_status(experiment))[0].rate == pytest.approx(5.0)
    record = json.loads((directory.path / "run.json").read_text())
    directory.write_manifest(record | {"resumed": 1})  # the claim is younger than the run
    assert by_seed(read_status(experiment))[0].rate is None


def test_the_end_of_all_is_estimated_from_what_runs_and_what_is_done(experiment, holders):
    sac, td3 = cells_of(0, 1, 2), cells_of(0, 1, algo="td3")
    write_requested([*sac, *td3], experiment)
    for cell in (sac[0], td3[0]):
        directory = write_cell(experiment, cell, [500], pace=0.01)
        holders[directory.checkpoints] = held(500)
    # 500 + 500 steps of those that run, 3 times 1,000 to come, at 100 steps/s, two at a time.
    assert read_status(experiment).total_eta == pytest.approx(20.0)
    write_cell(experiment, sac[1], [1000], status="done", wall_seconds=500.0)
    assert read_status(experiment).total_eta == pytest.approx(15.0)  # what runs is newer
    holders.clear()
    assert read_status(experiment).total_eta is None


def test_disk_use_tells_checkpoints_apart(tmp_path):
    for place, size in (("a/checkpoint/step-1/t", 40_000), ("a/run.json", 4096)):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(os.urandom(size))
    used = experiment_status.disk_use(tmp_path)
    assert 40_000 <= used.checkpoints < 60_000
    assert 4096 <= used.total - used.checkpoints < 20_000


# The plan ------------------------------------------------------------------------------


def test_plans_of_several_sweeps_add_up(experiment):
    first, second = cells_of(0, 1), cells_of(1, 2)
    write_requested(first, experiment)
    write_requested(first[::-1], experiment)
    write_requested(second, experiment)
    assert read_requested(experiment) == {f"mbbl/Pendulum/sac/seed-{seed}" for seed in range(3)}
    assert len(list((experiment / FOLDER).iterdir())) == 2
    open_experiment(experiment, LONG)


def test_a_plan_that_cannot_be_read_is_named(experiment):
    write_requested(cells_of(0), experiment)
    (file,) = (experiment / FOLDER).iterdir()
    file.write_text("[]")
    with pytest.raises(UserError, match=re.escape(f"{file}: cannot be read")):
        read_status(experiment)


# What is shown -------------------------------------------------------------------------


@pytest.fixture
def shown(experiment, holders):
    running, failed = cells_of(0, 1)
    directory = write_cell(experiment, running, [100, 200], notices=["no checkpoint at step 3"])
    holders[directory.checkpoints] = held(250, last_return=1234.56)
    write_cell(experiment, failed, status="failed", reason="ValueError: [/bold] [red]")
    write_requested(cells_of(0, 1, 2), experiment)
    return experiment


def test_lines_in_a_pipe(shown, capsys):
    before = snapshot(shown)
    assert status.main([str(shown)]) == 0
    out = capsys.readouterr().out
    assert snapshot(shown) == before
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[0] == f"{shown} (long), 3 cells: 1 running, 1 waiting, 1 failed"
    assert lines[1].startswith("all done in about ")
    row = next(line for line in lines if "far 77" in line)
    for text in ("mbbl/Pendulum sac seed 0", "250/1,000", "100.0", "1,234.6", "8s", "3s ago"):
        assert text in row
    assert "  mbbl/Pendulum sac seed 1  failed  ValueError: [/bold] [red]" in lines
    assert "  mbbl/Pendulum  sac     0/3   1        1,234.6" in lines
    assert "  mbbl/Pendulum sac seed 0  no checkpoint at step 3" in lines


def terminal():
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=160, height=60, markup=False), file


def test_tables_in_a_terminal(shown):
    console, file = terminal()
    status.show(read_status(shown), console)
    text = re.sub("\x1b[^m]*m", "", file.getvalue())
    for part in ("far 77", "failed", "ValueError: [/bold] [red]", "3s ago", "─"):
        assert part in text


def test_a_watch_in_a_terminal_cuts_long_tables(shown, monkeypatch):
    write_requested([cell_of("sac", f"mbbl/{name}", protocol=LONG) for name in mbbl_tasks()], shown)
    console, file = terminal()

    def sleep(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        status.watch(shown, 1.0, console)
    rows = len(mbbl_tasks())
    assert rows > status.MOST_ROWS
    assert f"... and {rows - status.MOST_ROWS} more" in file.getvalue()


def mbbl_tasks():
    return [task.partition("/")[2] for task in envs.list_tasks() if task.startswith("mbbl/")]


def test_a_watch_looks_again(shown, holders, capsys, monkeypatch):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        holders.clear()
        if len(looks) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert status.main([str(shown), "--watch", "7"]) == 0
    assert looks == [7.0, 7.0]
    first, second = capsys.readouterr().out.split(f"{shown} (long), ")[1:]
    assert "1 running" in first
    assert "1 interrupted" in second


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_watch_needs_a_time(value, shown):
    with pytest.raises(UserError, match=f"--watch {value}: must be more than 0 seconds"):
        status.main([str(shown), f"--watch={value}"])


def test_an_unknown_experiment_names_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no experiment results/quick: none in results"):
        status.main(["quick"])
    open_experiment(Path("results/tiny"), TINY)
    with pytest.raises(UserError, match="no experiment results/quick: experiments in results are "):
        status.main(["quick"])
    with pytest.raises(UserError, match="no experiment results/tiny/x: none in results/tiny"):
        status.main(["results/tiny/x"])
    assert status.main(["tiny"]) == 0


def test_the_command_is_one_line_for_a_mistake_and_needs_no_torch(tmp_path):
    code = (
        "import sys, runpy\n"
        "sys.argv[1:] = ['nothing']\n"
        "try: runpy.run_module('runners.status', run_name='__main__')\n"
        "finally: print(sorted({'torch', 'numpy', 'gymnasium'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr == "error: no experiment results/nothing: none in results\n"
    assert done.stdout == "[]\n"


# With real processes -------------------------------------------------------------------


def test_a_real_run_is_seen_while_it_runs_and_after_it_was_killed(tmp_path):
    experiment = tmp_path / "e"
    arguments = ["--algo=ppo", "--task=mbbl/Pendulum", "--protocol=chaos", "--steps=1000000"]
    run = Forked("train", [*arguments, f"--experiment={experiment}"], tmp_path / "log")
    try:
        wait_until(lambda: any(experiment.glob("*/*/*/seed-0/run.json")), what="a run")
        (cell,) = read_status(experiment).cells
        assert cell.status == "running"
        assert cell.holder.pid == run.process.pid
    finally:
        run.signal(signal.SIGKILL)
        run.wait()
    (cell,) = read_status(experiment).cells
    assert (cell.status, cell.holder) == ("interrupted", None)


def test_a_claim_in_this_process_shows_its_progress(experiment):
    (cell,) = cells_of(0)
    directory = write_cell(experiment, cell)
    lease = Lease(directory.checkpoints)
    assert lease.take()
    (seen,) = read_status(experiment).cells
    assert (seen.status, seen.holder.pid, seen.step) == ("running", os.getpid(), 0)
    lease.release()
    assert read_status(experiment).cells[0].status == "interrupted"
