"""Several seeds in one process: each has its own files and can end alone."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import algos
from runners.cells import grid
from runners.cells.errors import UserError
from runners.storage import checkpoint
from runners.storage.rundir import RunDirectory
from runners.training import groups
from runners.training import session as runs
from runners.training.loop import Interrupted
from runners.training.replica import Replica
from runners.training.session import LAST_GOOD, run_cell
from runners.training.trained import load_policy
from tests.helpers.runs import (
    CHAOS,
    FAKES,
    TINY,
    Still,
    cell_of,
    files_of,
    load_fake,
    small_options,
    snapshot,
)


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr(algos, "load", load_fake)


def group_of(algo="still", seeds=(0, 1, 2), **options):
    return tuple(cell_of(algo, seed=seed, **options) for seed in seeds)


def records(run, experiment):
    return [json.loads((cell.path(experiment) / "run.json").read_text()) for cell in run]


def statuses(run, experiment):
    return [record["status"] for record in records(run, experiment)]


def run_cells(*arguments, **options):
    return [status for status, _ in runs.run_cells(*arguments, **options)]


def interrupt(run, experiment, calls):
    seen = iter(range(calls))
    with pytest.raises(Interrupted):
        run_cells(run, experiment, should_stop=lambda: next(seen, None) is None)


class Breaks(Still):
    """The metric of one replica is not finite any more from step 30 on."""

    def update(self):
        metrics = super().update()
        if self.counters.steps >= 30:
            metrics["steps"][1] = float("nan")
        return metrics


FAKES["breaks"] = Breaks


# Results ------------------------------------------------------------------------------


def test_a_seed_in_a_group_equals_the_seed_alone(tmp_path):
    run = group_of()
    assert run_cells(run, tmp_path / "group") == ["done"] * 3
    for cell in run:
        assert run_cell(cell, tmp_path / "alone") == "done"
        together, alone = (files_of(cell.path(tmp_path / name)) for name in ("group", "alone"))
        assert together == alone
    assert [record["replicas"] for record in records(run, tmp_path / "group")] == [[0, 1, 2]] * 3
    assert records(run, tmp_path / "alone")[1]["replicas"] == [1]


def test_a_real_agent_in_a_group_equals_itself_alone_to_rounding(tmp_path):
    task, rules = "mbbl/Reacher", dataclasses.replace(CHAOS, steps=50, eval_every=50, log_every=5)
    sets = [text.removeprefix("--set=") for text in small_options("sac", "sac.", task)]
    run = tuple(cell_of("sac@quick", task, seed, rules, sets) for seed in (0, 1))
    run_cells(run, tmp_path / "group")
    for cell in run:
        run_cell(cell, tmp_path / "alone")
        tables = [
            np.genfromtxt(cell.path(tmp_path / name) / "train.csv", delimiter=",", skip_header=1)
            for name in ("group", "alone")
        ]
        np.testing.assert_allclose(*tables, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algo", ["still", "rare", "dreams"])
def test_a_group_that_is_stopped_anywhere_ends_with_the_same_bytes(tmp_path, algo):
    run = group_of(algo)
    assert run_cells(run, tmp_path / "whole") == ["done"] * 3
    for calls in (3, 20 + 100, 30, 201 + 5):
        interrupt(run, tmp_path / "stopped", calls)
        assert statuses(run, tmp_path / "stopped") == ["running"] * 3
    assert run_cells(run, tmp_path / "stopped") == ["done"] * 3
    for cell in run:
        stopped, whole = (files_of(cell.path(tmp_path / name)) for name in ("stopped", "whole"))
        assert stopped == whole
        assert not (cell.path(tmp_path / "stopped") / "checkpoint").exists()


def test_every_seed_keeps_its_own_policy(tmp_path):
    sets = ["sac.hidden=8", "sac.batch_size=8"]
    run = tuple(cell_of("sac", seed=seed, sets=sets) for seed in (0, 1))
    run_cells(run, tmp_path)
    obs = np.ones((1, 1, 3), np.float32)
    together = [load_policy(cell.path(tmp_path)).act(obs, explore=False) for cell in run]
    assert not np.array_equal(*together)
    for cell, action in zip(run, together, strict=True):
        run_cell(cell, tmp_path / "alone")
        alone = load_policy(cell.path(tmp_path / "alone")).act(obs, explore=False)
        np.testing.assert_allclose(action, alone, rtol=1e-3, atol=1e-4)


def test_a_seed_of_an_unfinished_group_has_no_policy_yet(tmp_path):
    run = group_of("sac", sets=["sac.hidden=8", "sac.batch_size=8"])
    interrupt(run, tmp_path, 20)
    with pytest.raises(UserError, match="trains with other seeds"):
        load_policy(run[0].path(tmp_path))


# Ends ---------------------------------------------------------------------------------


def test_one_seed_diverges_and_the_others_go_on(tmp_path):
    run = group_of("breaks")
    interrupt(run, tmp_path / "e", 25)
    assert run_cells(run, tmp_path / "e") == ["done", "diverged", "done"]
    first, second, third = records(run, tmp_path / "e")
    assert (first["status"], third["reason"]) == ("done", None)
    assert second["reason"] == "steps not finite at step 30"
    for cell in (run[0], run[2]):
        good = dataclasses.replace(cell, algo="still")
        run_cell(good, tmp_path / "alone")
        ours, theirs = cell.path(tmp_path / "e"), good.path(tmp_path / "alone")
        assert files_of(ours)["evaluations.csv"] == files_of(theirs)["evaluations.csv"]
    kept = checkpoint.load(run[1].path(tmp_path / "e") / LAST_GOOD)
    assert kept.state["step"] == 20
    assert not (run[0].path(tmp_path / "e") / "checkpoint").exists()


def test_a_seed_that_diverged_is_tried_again_alone(tmp_path, monkeypatch):
    run = group_of("breaks")
    run_cells(run, tmp_path)
    before = snapshot(run[0].path(tmp_path))
    monkeypatch.setitem(FAKES, "breaks", Still)
    assert groups.make_runs([run[1]], tmp_path, 3) == [(run[1],)]
    assert run_cells((run[1],), tmp_path) == ["done"]
    assert snapshot(run[0].path(tmp_path)) == before
    assert records(run, tmp_path)[1]["replicas"] == [1]


def test_a_broken_environment_ends_its_own_seed(tmp_path, monkeypatch):
    step = Replica.step

    def breaks(replica, action, at):
        if replica.cell.seed == 2 and at >= 35:
            raise RuntimeError("the simulator is unstable")
        return step(replica, action, at)

    monkeypatch.setattr(Replica, "step", breaks)
    run = group_of()
    assert run_cells(run, tmp_path) == ["done", "done", "failed"]
    assert "the simulator is unstable" in records(run, tmp_path)[2]["reason"]


def test_an_agent_that_raises_ends_all_and_they_go_on_together(tmp_path, monkeypatch):
    run = group_of("raises")
    interrupt(run, tmp_path / "e", 10)
    assert run_cells(run, tmp_path / "e") == ["failed"] * 3
    monkeypatch.setitem(FAKES, "raises", Still)
    assert groups.make_runs([run[2]], tmp_path / "e", 1) == [run]
    assert run_cells(run, tmp_path / "e") == ["done"] * 3
    assert [record["resumed"] for record in records(run, tmp_path / "e")] == [2, 2, 2]


def test_a_kill_between_the_last_words_of_two_seeds_loses_nothing(tmp_path, monkeypatch):
    run = group_of()
    interrupt(run, tmp_path / "e", 30)

    class Kill(BaseException):
        pass

    write = RunDirectory.write_manifest

    def dies(directory, record):
        if record["status"] == "done" and directory.cell.seed == 1:
            raise Kill
        write(directory, record)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_manifest", dies)
        with pytest.raises(Kill):
            run_cells(run, tmp_path / "e")
    assert statuses(run, tmp_path / "e") == ["done", "running", "running"]
    before = snapshot(run[0].path(tmp_path / "e"))
    files = {name: value for name, value in before.items() if "checkpoint" not in name}
    (again,) = groups.make_runs(run[1:], tmp_path / "e")
    assert run_cells(again, tmp_path / "e") == ["done"] * 3
    assert snapshot(run[0].path(tmp_path / "e")) == files
    assert run_cells(run, tmp_path / "whole") == ["done"] * 3
    for cell in run:
        assert files_of(cell.path(tmp_path / "e")) == files_of(cell.path(tmp_path / "whole"))


def test_a_group_with_a_seed_that_another_process_has_is_left_alone(tmp_path):
    run = group_of()
    other = RunDirectory(run[1], tmp_path)
    assert other.lock()
    assert run_cells(run, tmp_path) == ["running"] * 3
    other.unlock()
    assert run_cells(run, tmp_path) == ["done"] * 3


# Groups -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "seeds"),
    [(1, [[0], [1], [2], [3], [4]]), (2, [[0, 1], [2, 3], [4]]), (None, [[0, 1, 2, 3, 4]])],
)
def test_cells_are_grouped_by_method_and_task(tmp_path, replicas, seeds):
    cells = grid.make_cells(["still", "rare"], ["mbbl/Pendulum", "mbbl/Hopper-ET"], range(5), TINY)
    runs = groups.make_runs(cells, tmp_path, replicas)
    assert sorted(c.name for run in runs for c in run) == sorted(c.name for c in cells)
    for run in runs:
        assert len({(cell.task, cell.label) for cell in run}) == 1
    mine = [[c.seed for c in run] for run in runs if run[0].name.startswith("mbbl/Hopper-ET rare")]
    assert mine == seeds
    assert [run[0].seed for run in runs] == sorted(run[0].seed for run in runs)


def test_an_agent_of_one_replica_is_never_grouped(tmp_path, monkeypatch):
    class Alone(Still):
        max_replicas = 1

    monkeypatch.setitem(FAKES, "alone", Alone)
    runs = groups.make_runs(group_of("alone"), tmp_path, None)
    assert [len(run) for run in runs] == [1, 1, 1]


def test_the_state_of_one_replica_is_cut_out_of_the_groups():
    from runners.training.replica import part_of

    state = {"w": torch.arange(6.0).view(3, 2), "twins": torch.arange(6.0), "steps": 4}
    state["list"] = [torch.ones(3)]
    single = {"w": torch.zeros(1, 2), "twins": torch.zeros(2), "steps": 4}
    single["list"] = [torch.zeros(1)]
    part = part_of(state, single, 2)
    assert part["w"].tolist() == [[4.0, 5.0]]
    assert part["twins"].tolist() == [4.0, 5.0]
    assert part["list"][0].tolist() == [1.0]
    assert part["steps"] == 4
