"""Actions of a policy at several stages of its training."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from runners import probe
from runners.cells.grid import make_cells
from runners.terminal.cli import run_main
from runners.training.session import run_cell
from runners.training.trained import load_policy
from tests.helpers.runs import TINY

RULES = dataclasses.replace(TINY, eval_episodes=3)
SMALL = (
    *("train_samples=2", "eval_samples=1", "hidden=8", "batch_size=4", "diffusion_steps=3"),
    "entropy_samples=2",
)


def run_of(folder, algo, *sets):
    cell = make_cells([algo], ["toy/bandit"], [0], RULES, [f"{algo}.{text}" for text in sets])[0]
    assert run_cell(cell, folder) == "done"
    return cell.path(folder)


def rows_of(run):
    with (run / "actions.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_actions_are_the_policys(tmp_path, capsys):
    """SAC acts without noise, so that its last actions are those of the policy it keeps."""
    run = run_of(tmp_path, "sac", "hidden=8", "batch_size=4")
    assert probe.main([str(run), "--stages=3", "--actions=2"]) == 0
    assert str(run / "actions.csv") in capsys.readouterr().out
    rows = rows_of(run)
    assert [row["env_step"] for row in rows] == ["20", "20", "40", "40", "60", "60"]
    assert [row["sample"] for row in rows] == ["0", "1"] * 3
    kept = load_policy(run).act(np.ones((1, 1, 1)), explore=False)[0, 0]
    for row in rows[4:]:
        assert [float(row["action_0"]), float(row["action_1"])] == pytest.approx(kept, abs=1e-4)
    assert rows[0] != rows[2] | {"env_step": "20"}


def test_asking_does_not_change_the_run(tmp_path):
    """QVPO draws its actions: were its streams moved on, the repeated run would be another one."""
    run = run_of(tmp_path, "qvpo", *SMALL)
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    assert probe.main([str(run), "--stages=6", "--actions=50"]) == 0
    after = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    assert after == before | {"actions.csv": after["actions.csv"]}
    last = [(row["action_0"], row["action_1"]) for row in rows_of(run)[-50:]]
    assert len(set(last)) > 40


@pytest.mark.parametrize("case", ["other", "running", "absent", "stages"])
def test_bad_input_is_one_line(tmp_path, capsys, case):
    run = run_of(tmp_path, "sac", "hidden=8", "batch_size=4")
    arguments, wanted = [str(run)], "the run repeated here has other evaluations"
    if case == "other":
        text = (run / "evaluations.csv").read_text()
        (run / "evaluations.csv").write_text(text.replace("60,0,", "60,0,1", 1))
    elif case == "running":
        record = json.loads((run / "run.json").read_text()) | {"status": "running"}
        (run / "run.json").write_text(json.dumps(record))
        wanted = "the run is running; valid are runs that are done"
    elif case == "absent":
        arguments, wanted = [str(tmp_path)], "no run here"
    else:
        arguments, wanted = [str(run), "--stages=0"], "--stages 0: must be at least 1"
    with pytest.raises(SystemExit) as stopped:
        run_main(lambda: probe.main(arguments))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert wanted in error
    assert error.count("\n") == 1
    assert not (run / "actions.csv").exists()
