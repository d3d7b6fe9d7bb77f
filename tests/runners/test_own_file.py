"""An algorithm whose file lies outside the project: `--algos sac,./mine.py`."""

import json
from pathlib import Path

import pytest
import torch

import algos
from algos.parts.precision import PRECISIONS
from runners import check, sweep, train
from runners.bench import loop, methods
from runners.cells.errors import UserError
from runners.cells.grid import make_cells, parse_entry
from runners.cells.protocols import QUICK
from tests.helpers.runs import TINY

SMALL = ["--steps", "300", "--seeds", "1", "--tasks", "mbbl/Pendulum", "--workers", "1"]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A copy of the template under another name, in another folder."""
    file = tmp_path / "mine.py"
    file.write_text((algos.FOLDER / "_template.py").read_text().replace("Template", "Mine"))
    return file


def test_a_file_stands_beside_the_methods_of_the_project(mine, tmp_path, capfd):
    """Sweep, report and every record name it `mine`; its path is nowhere in the results."""
    folder = tmp_path / "own"
    words = ["--algos", f"sac,{mine}", "--experiment", str(folder)]
    words += ["--set", "mine.hidden=16", "--set", "sac.hidden=16"]
    assert sweep.main([*words, *SMALL]) == 0
    run = folder / "mbbl/Pendulum/mine@hidden=16/seed-0"
    record = json.loads((run / "run.json").read_text())
    assert (record["algo"], record["title"], record["status"]) == ("mine", "Mine", "done")
    assert record["config"]["hidden"] == 16
    assert record["file"]["name"] == "mine.py"
    assert str(tmp_path) not in (run / "run.json").read_text()
    table = (folder / "report" / "returns.md").read_text()
    assert "Mine" in table
    assert "SAC" in table
    capfd.readouterr()
    assert sweep.main([*words, *SMALL]) == 0  # finished cells are not run again
    assert "2 of 2 cells are finished already" in capfd.readouterr().out


def test_it_is_named_by_its_path_from_anywhere(mine, monkeypatch, tmp_path):
    by_full_path = make_cells([f"{mine}@quick"], ["mbbl/Pendulum"], [0], TINY)
    monkeypatch.chdir(tmp_path.parent)
    by_relative = make_cells([f"{tmp_path.name}/mine.py@quick"], ["mbbl/Pendulum"], [0], TINY)
    assert by_full_path == by_relative
    (cell,) = by_full_path
    assert (cell.algo, cell.label, cell.file) == ("mine", "mine@quick", str(mine))
    assert cell.config["hidden"] == algos.load(str(mine)).presets["quick"]["hidden"]


def test_train_and_check_take_it_too(mine, tmp_path, capfd):
    words = ["--algo", str(mine), "--task", "mbbl/Pendulum", "--steps", "250"]
    assert train.main([*words, "--set", "hidden=16", "--experiment", f"{tmp_path}/one"]) == 0
    assert (tmp_path / "one/mbbl/Pendulum/mine@hidden=16/seed-0/run.json").exists()
    assert check.main(["--algo", str(mine)]) == 0
    assert "0 broken" in capfd.readouterr().out


def test_bench_takes_it_too(mine):
    rate = dict.fromkeys(PRECISIONS, 100.0)
    cost = methods.measure(str(mine), 1, torch.device("cpu"), rate, stored=300)
    assert cost.update_ms > 0.0
    assert loop.measure_loop(str(mine), 20, "cpu", "mbbl/Pendulum", 1).steps_per_second > 0.0


@pytest.mark.parametrize(
    ("entry", "source", "preset"),
    [
        ("sac", "sac", ""),
        ("sac@released", "sac", "released"),
        ("./a@b/mine.py", "./a@b/mine.py", ""),
        ("./a@b/mine.py@quick", "./a@b/mine.py", "quick"),
        ("", "", ""),
    ],
)
def test_entries_split_into_source_and_preset(entry, source, preset):
    assert parse_entry(entry) == (source, preset)


def test_a_path_to_a_file_of_the_project_is_its_name():
    (cell,) = make_cells([str(algos.FOLDER / "sac.py")], ["mbbl/Pendulum"], [0], QUICK)
    assert (cell.algo, cell.file) == ("sac", None)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("absent.py", None, "no such file"),
        ("empty.py", "", "defines no concrete subclass"),
        ("broken.py", "def", "cannot be imported: SyntaxError"),
        ("raises.py", "1 / 0", "cannot be imported: ZeroDivisionError"),
        ("two words.py", "", "name the file like a Python module"),
        ("sac.py", "", "algos/sac.py has this name"),
    ],
)
def test_a_file_that_is_no_algorithm_is_one_clear_line(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(algos.UnknownAlgo) as caught:
        make_cells(["sac", str(tmp_path / name)], ["mbbl/Pendulum"], [0], QUICK)
    assert words in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_agents_in_one_file_are_refused(mine):
    mine.write_text(mine.read_text() + "\n\nclass Second(MineAgent):\n    pass\n")
    with pytest.raises(algos.UnknownAlgo, match=r"defines 2 agents \(MineAgent, Second\)"):
        algos.load(str(mine))


def test_two_files_of_one_name_are_refused(mine, tmp_path):
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text(mine.read_text())
    with pytest.raises(UserError, match="has the name mine too"):
        make_cells([str(mine), str(other)], ["mbbl/Pendulum"], [0], QUICK)


PIXELS = "    observation_kinds = ('pixels',)\n    Config = MineConfig\n"


def test_a_cell_that_its_agent_does_not_support_is_shown_and_the_sweep_goes_on(
    mine, tmp_path, capfd
):
    """The reason stands in the output, in run.json and in the report; it is no failure."""
    mine.write_text(mine.read_text().replace("    Config = MineConfig\n", PIXELS))
    words = ["--algos", f"{mine},sac", "--experiment", f"{tmp_path}/mixed", *SMALL]
    reason = "mine takes pixels observations, mbbl/Pendulum gives state"
    assert sweep.main([*words, "--dry-run"]) == 0
    assert reason in capfd.readouterr().out
    assert sweep.main(words) == 0
    assert reason in capfd.readouterr().out
    record = json.loads((tmp_path / "mixed/mbbl/Pendulum/mine/seed-0/run.json").read_text())
    assert (record["status"], record["reason"]) == ("unsupported", reason)
    assert (tmp_path / "mixed/mbbl/Pendulum/sac/seed-0/evaluations.csv").exists()
    assert reason in (tmp_path / "mixed/report/status.md").read_text()
    one = ["--algo", str(mine), "--task", "mbbl/Pendulum", "--experiment", f"{tmp_path}/one"]
    with pytest.raises(UserError, match=reason):
        train.main(one)
    assert not (tmp_path / "one").exists()
