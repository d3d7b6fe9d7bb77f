"""Results in and out: the tidy table, and logs of Stable-Baselines3 and CleanRL."""

import json
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from analysis.data.importing import COLUMNS
from analysis.data.load import load
from analysis.exchange import main, tidy
from analysis.report import main as report
from tests.helpers.experiments import write_experiment, write_run

TASK = "gym/Hopper-v5"
HEADER = "task,method,seed,env_step,return"
FULL = {"name": "qvpo", "reduced": False, "steps": 1_000_000, "reported": "best,last"}


@pytest.fixture
def results(tmp_path):
    """An experiment of this suite, one run of which failed."""
    folder = write_experiment(tmp_path / "results" / "ours", **FULL)
    for seed in range(3):
        write_run(folder, TASK, "sac", seed, [1.0, 2.0, 3.25 + seed], title="SAC")
        success = [(2, 1), (1, 0), (0, 0)]
        write_run(folder, "metaworld/sweep", "sac", seed, [1.0] * 3, success=success)
    write_run(folder, TASK, "sac@tau=0.01", 0, [7.0], status="failed", reason="boom")
    return tmp_path / "results"


def run(results: Path, *arguments: str) -> int:
    extra = [] if arguments[0] == "export" else ["--results", str(results)]
    return main([*arguments, *extra])


def log(folder: Path, tag: str, values: list[tuple[int, float]]) -> Path:
    """Write an event file with the same records as torch's SummaryWriter."""
    writer = EventFileWriter(str(folder))
    for step, value in values:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        writer.add_event(Event(wall_time=0.0, step=step, summary=summary))
    writer.close()
    return folder


def import_logs(results: Path, folder: Path, *arguments: str) -> int:
    named = ("--method", "mine", "--task", TASK, "--experiment", "theirs")
    return run(results, "import-tensorboard", str(folder), *named, *arguments)


def evaluations(results: Path, experiment: str = "theirs", label: str = "mine@imported"):
    rows = load(results / experiment).evaluations.query("label == @label")
    grouped = rows.groupby(["seed", "env_step"])["return"].apply(list)
    return {key: [round(value, 4) for value in values] for key, values in grouped.items()}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_goes_out_comes_back(results, suffix):
    file = results / f"table.{suffix}"
    assert run(results, "export", str(results / "ours"), "--out", str(file)) == 0
    table = pd.read_csv(file) if suffix == "csv" else pd.read_parquet(file)
    assert list(table.columns) == COLUMNS
    assert len(table) == 2 * (3 * 3 + 3 * 3 + 1)
    assert run(results, "import-csv", str(file), "--experiment", "back") == 0
    ours, back = load(results / "ours"), load(results / "back")
    assert back.labels == ["sac@imported", "sac@tau=0.01,imported"]
    again = tidy(back).assign(method=lambda rows: rows["method"].str.replace(",imported", ""))
    again["method"] = again["method"].str.replace("@imported", "")
    keys = ["task", "method", "seed", "env_step", "episode"]
    expected, found = (frame.sort_values(keys, ignore_index=True) for frame in (tidy(ours), again))
    pd.testing.assert_frame_equal(found, expected)
    assert (found["status"] == "failed").sum() == 2
    assert back.success_tasks == ["metaworld/sweep"]


def test_a_short_table_is_enough(results):
    file = results / "short.csv"
    file.write_text(
        f"{HEADER}\n{TASK},mine,4,1000,1.5\n{TASK},mine,4,1000,2.5\n{TASK},mine,4,2000,3\n"
    )
    assert run(results, "import-csv", str(file), "--experiment", "theirs") == 0
    assert evaluations(results) == {(4, 1000): [1.5, 2.5], (4, 2000): [3.0]}
    rules = load(results / "theirs").protocol
    assert (rules.name, rules.steps, rules.eval_every, rules.eval_episodes) == (
        "imported",
        2000,
        1000,
        2,
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no row"),
        ([f"{TASK},mine,0,1000,"], "line 2: return is empty; expected a number"),
        ([f"{TASK},mine,0,1000,1", f"{TASK},mine,0,x,1"], "line 3: env_step is 'x'"),
        ([f"{TASK},mine,0.5,1000,1"], "line 2: seed is '0.5'; expected a whole number"),
        ([f"{TASK},mine,0,-1,1"], "line 2: env_step is '-1.0'; expected a whole number"),
        (["Hopper,mine,0,1000,1"], "line 2: task is 'Hopper'; expected <suite>/<name>"),
        (["../Hopper,mine,0,1000,1"], "line 2: task is '../Hopper'; expected <suite>/<name>"),
        ([f"{TASK},a/b,0,1000,1"], "line 2: method is 'a/b'; expected a name without '/'"),
        ([f"{TASK},,0,1000,1"], "line 2: method is empty"),
        ([f"{TASK},mine,0,1000,1,2"], "cannot read"),
        ([f"{TASK},mine,0,1000,1", f"{TASK},mine,0,1000"], "line 3: return is empty"),
    ],
)
def test_a_bad_table_is_one_line(results, capsys, lines, message):
    refuse_table(results, capsys, HEADER, lines, message)


@pytest.mark.parametrize(
    ("header", "values", "message"),
    [
        ("task,method,seed,env_step", f"{TASK},mine,0,1", "lacks column return; expected task,"),
        (f"{HEADER},score", f"{TASK},mine,0,1,1,1", "has the unknown column score; expected"),
        (f"{HEADER},success", f"{TASK},mine,0,1,1,2", "line 2: success is '2.0'; expected 0 to 1"),
        (f"{HEADER},status", f"{TASK},mine,0,1,1,ok", "line 2: status is 'ok'; expected one of"),
        (f"{HEADER},episode", f"{TASK},mine,0,1,1,", "line 2: episode is empty"),
    ],
)
def test_a_bad_header_or_column_is_one_line(results, capsys, header, values, message):
    refuse_table(results, capsys, header, [values], message)


def test_an_episode_stands_once_and_a_run_has_one_status(results, capsys):
    episode = f"{TASK},mine,0,1,1,0"
    message = "line 3: episode is '0.0'; expected each once"
    refuse_table(results, capsys, f"{HEADER},episode", [episode, episode], message)
    rows = [f"{TASK},mine,0,1,1,done", f"{TASK},mine,0,2,1,failed"]
    refuse_table(results, capsys, f"{HEADER},status", rows, "expected one status per run")


def refuse_table(results: Path, capsys, header: str, lines: list[str], message: str) -> None:
    file = results / "bad.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    assert run(results, "import-csv", str(file), "--experiment", "theirs") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (results / "theirs").exists()


def test_evaluations_of_sb3(results, tmp_path):
    for number, offset in ((1, 0.0), (2, 0.5), (10, 0.25)):
        folder = log(tmp_path / "logs" / f"SAC_{number}", "rollout/ep_rew_mean", [(700, 1.0)])
        log(folder, "eval/mean_reward", [(500, 1.0 + offset), (1000, 2.0 + offset)])
    assert import_logs(results, tmp_path / "logs") == 0
    # In the order of the numbers, not of the letters.
    assert evaluations(results) == {
        (0, 500): [1.0],
        (0, 1000): [2.0],
        (1, 500): [1.5],
        (1, 1000): [2.5],
        (2, 500): [1.25],
        (2, 1000): [2.25],
    }
    data = json.loads((results / "theirs" / TASK / "mine@imported/seed-2/run.json").read_text())
    assert data["imported"] == {
        "from": "TensorBoard logs of Stable-Baselines3",
        "tag": "eval/mean_reward",
        "values": "evaluations",
        "run": "SAC_10",
    }
    assert str(tmp_path) not in json.dumps(data)


def test_training_episodes_of_cleanrl_are_gathered(results, tmp_path):
    for seed in (5, 7):
        values = [(90, 1.0), (110, 3.0), (170, 5.0), (204, float(seed))]
        log(tmp_path / f"logs/Hopper__sac__{seed}__1700000000", "charts/episodic_return", values)
    assert import_logs(results, tmp_path / "logs", "--every", "100") == 0
    assert evaluations(results) == {
        (5, 100): [1.0, 3.0],
        (5, 200): [5.0, 5.0],
        (7, 100): [1.0, 3.0],
        (7, 200): [5.0, 7.0],
    }


def test_a_half_written_log_gives_what_is_whole(results, tmp_path):
    folder = log(tmp_path / "SAC_1", "eval/mean_reward", [(500, 1.0), (1000, 2.0)])
    [file] = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    assert import_logs(results, folder) == 0
    assert evaluations(results) == {(0, 500): [1.0]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run 'SAC_1' has no scalar eval/mean_reward or rollout/ep_rew_mean or charts/"),
        (["--tag", "eval/x"], "run 'SAC_1' has no scalar eval/x; scalars there: other"),
        (["--tag", "other", "--every", "0"], "--every 0: expected a positive number"),
        (["--tag", "other", "--method", "a/b"], "cannot use the method 'a/b'"),
        (["--tag", "other", "--task", "Hopper"], "cannot use the task 'Hopper'; expected <suite>"),
        (["--tag", "other", "--experiment", "../x"], "cannot use the experiment '../x'"),
    ],
)
def test_bad_logs_or_names_are_one_line(results, tmp_path, capsys, arguments, message):
    log(tmp_path / "logs" / "SAC_1", "other", [(1, 1.0)])
    assert import_logs(results, tmp_path / "logs", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert sorted(path.name for path in results.iterdir()) == ["ours"]


def test_a_folder_without_logs_is_one_line(results, tmp_path, capsys):
    assert import_logs(results, tmp_path / "nowhere") == 2
    assert import_logs(results, results) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "no folder" in first
    assert "no event file" in second


@pytest.fixture
def joined(results, tmp_path):
    """The experiment of this suite with runs of Stable-Baselines3 beside its own."""
    values = [(1000, 9.0), (2000, 99.0)]
    for number in range(3):
        log(tmp_path / f"logs/SAC_{number}", "eval/mean_reward", values)
    assert import_logs(results, tmp_path / "logs", "--method", "sac", "--experiment", "ours") == 0
    return results / "ours"


def test_imported_runs_stand_beside_ours_and_say_so(joined):
    assert report([str(joined), "--quiet"]) == 0
    page = (joined / "report" / "README.md").read_text()
    assert "| sac (imported) |" in page
    note = "Imported runs followed the rules of those who ran them, not a protocol of this suite"
    assert f"{note}: sac@imported." in page
    assert "- code: imported from TensorBoard logs of Stable-Baselines3, not run by" in page
    commands = [line for line in page.splitlines() if "runners.sweep" in line]
    assert len(commands) == 2
    assert not any("imported" in command for command in commands)
    assert "sac (imported)" in (joined / "report" / "curves.svg").read_text()


def test_a_second_import_takes_the_place_of_the_first(joined, tmp_path):
    before = sorted((joined / TASK / "sac").rglob("*"))
    folder = log(tmp_path / "again" / "SAC_0", "eval/mean_reward", [(1000, 5.0)])
    assert import_logs(joined.parent, folder, "--method", "sac", "--experiment", "ours") == 0
    assert evaluations(joined.parent, "ours", "sac@imported") == {(0, 1000): [5.0]}
    assert sorted((joined / TASK / "sac").rglob("*")) == before


def test_other_bad_input_is_one_line(results, capsys):
    (results / "other").mkdir()
    table = results / "table.csv"
    table.write_text(f"{HEADER}\n{TASK},mine,0,1,1\n")
    bad = [
        ["export", str(results / "ours"), "--out", "table.xlsx"],
        ["export", "nowhere", "--out", "table.csv"],
        ["import-csv", "nowhere.csv", "--experiment", "theirs"],
        ["import-csv", str(table), "--experiment", "other"],
    ]
    assert [run(results, *arguments) for arguments in bad] == [2] * 4
    messages = ["cannot write", "no experiment folder", "no file", "is there and is no experiment"]
    for line, message in zip(capsys.readouterr().err.splitlines(), messages, strict=True):
        assert message in line
