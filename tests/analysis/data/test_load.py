"""Loading experiments, whole and damaged."""

import json
import math

import numpy as np
import pytest

from analysis.data.experiment import MEASURES, Experiment, natural
from analysis.data.load import load
from analysis.data.logs import ExperimentError, read_table
from analysis.data.run_times import measure_run_times
from analysis.data.scores import scores_by_task
from analysis.data.values import run_values
from tests.helpers.experiments import (
    EVALUATIONS_HEADER,
    SUCCESS_HEADER,
    TIMING_HEADER,
    write_experiment,
    write_run,
)

TASK = "mbbl/Ant-ET"
JUDGED = "metaworld/drawer-close@size=64"


@pytest.fixture
def folder(tmp_path):
    return write_experiment(tmp_path / "quick")


def status(experiment: Experiment, label: str, seed: int) -> tuple[str, str]:
    row = experiment.runs.query("label == @label and seed == @seed").iloc[0]
    return row["status"], row["reason"]


def marks(experiment: Experiment, statistic: str = "last") -> list[str]:
    return run_values(experiment, statistic)["mark"].tolist()


def test_a_whole_experiment(folder):
    write_run(folder, TASK, "sac", 0, [1.0, 2.0, 3.0], title="SAC")
    write_run(folder, TASK, "sac", 1, [2.0, 4.0, 8.0], title="SAC")
    experiment = load(folder)
    assert experiment.tasks == [TASK]
    assert experiment.runs["evaluations"].tolist() == [3, 3]
    assert len(experiment.evaluations) == 12
    assert experiment.curves()["return"].tolist() == [1.0, 2.0, 3.0, 2.0, 4.0, 8.0]
    assert run_values(experiment, "last")["value"].tolist() == [3.0, 8.0]
    assert experiment.protocol.notice.startswith("reduced protocol `quick`")
    assert experiment.train(TASK, "sac", 0)["critic_loss"].tolist() == pytest.approx(
        [0.1, 0.2, 0.3]
    )


def test_names_carry_the_variant_and_are_unique(folder):
    write_run(folder, TASK, "diffsr", 0, [1.0], title="Diff-SR")
    write_run(folder, TASK, "diffsr@feature_updates=10", 0, [1.0], title="Diff-SR")
    write_run(folder, TASK, "a", 0, [1.0], title="Same")
    write_run(folder, TASK, "b", 0, [1.0], title="Same")
    assert load(folder).names == {
        "a": "a",
        "b": "b",
        "diffsr": "Diff-SR",
        "diffsr@feature_updates=10": "Diff-SR (feature_updates=10)",
    }


def test_natural_order():
    assert sorted(["x=10", "x=3", "x"], key=natural) == ["x", "x=3", "x=10"]


def test_unequal_lengths(folder):
    write_run(folder, TASK, "sac", 0, [1.0, 2.0, 3.0, 4.0, 5.0])
    write_run(folder, TASK, "sac", 1, [1.0, 2.0])
    assert marks(load(folder), "last4") == ["", "with too few evaluations"]


def test_runs_that_are_not_done_do_not_count(folder):
    write_run(folder, TASK, "sac", 0, [1.0], status="failed", reason="out of\nmemory")
    write_run(folder, TASK, "sac", 1, [1.0], status="diverged", reason="loss is not finite")
    write_run(folder, TASK, "sac", 2, [1.0], status="running")
    experiment = load(folder)
    assert marks(experiment) == ["failed", "diverged", "running"]
    assert measure_run_times(experiment)["mark"].tolist() == ["failed", "diverged", "running"]
    assert status(experiment, "sac", 0) == ("failed", "out of memory")


def test_missing_seeds_are_rows(folder):
    write_run(folder, TASK, "sac", 0, [1.0])
    write_run(folder, TASK, "sac", 1, [1.0])
    write_run(folder, TASK, "qvpo", 0, [1.0])
    experiment = load(folder)
    assert status(experiment, "qvpo", 1)[0] == "missing"
    assert len(experiment.runs) == 4


def test_a_cell_without_manifest_is_missing(folder):
    (write_run(folder, TASK, "sac", 0, [1.0]) / "run.json").unlink()
    assert status(load(folder), "sac", 0) == ("missing", "no run.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"status": "finished"}'])
def test_a_bad_manifest_is_unreadable(folder, text):
    (write_run(folder, TASK, "sac", 0, [1.0]) / "run.json").write_text(text)
    found, reason = status(load(folder), "sac", 0)
    assert found == "unreadable"
    assert reason


def test_a_half_written_last_line_is_left_out(folder):
    cell = write_run(folder, TASK, "sac", 0, [1.0, 2.0], status="running")
    for name, torn in {"evaluations": "3000,0,12", "timing": "3000,", "train": "30"}.items():
        with (cell / f"{name}.csv").open("a") as file:
            file.write(torn)
    experiment = load(folder)
    assert experiment.runs["evaluations"].tolist() == [2]
    assert len(experiment.timing) == 2
    assert len(experiment.train(TASK, "sac", 0)) == 2


@pytest.mark.parametrize("text", ["", EVALUATIONS_HEADER[:9], EVALUATIONS_HEADER + "\n"])
def test_an_empty_csv_is_a_run_without_evaluations(folder, text):
    cell = write_run(folder, TASK, "sac", 0, [1.0])
    (cell / "evaluations.csv").write_text(text)
    assert marks(load(folder)) == ["without evaluations"]


def test_absent_csv_files(folder):
    cell = write_run(folder, TASK, "sac", 0, [1.0])
    for file in cell.glob("*.csv"):
        file.unlink()
    experiment = load(folder)
    assert marks(experiment) == ["without evaluations"]
    assert measure_run_times(experiment)["mark"].tolist() == ["without timing"]
    assert experiment.train(TASK, "sac", 0).empty


def test_a_nan_return_does_not_count(folder):
    write_run(folder, TASK, "sac", 0, [1.0, math.nan])
    assert marks(load(folder)) == ["not finite"]


def test_one_nan_episode_spoils_its_evaluation(folder):
    cell = write_run(folder, TASK, "sac", 0, [1.0])
    (cell / "evaluations.csv").write_text(f"{EVALUATIONS_HEADER}\n1000,0,nan,5,\n1000,1,3,5,\n")
    assert marks(load(folder)) == ["not finite"]


def test_tasks_with_and_without_success_in_one_experiment(folder):
    write_run(folder, TASK, "sac", 0, [1.0, 2.0])
    write_run(folder, JUDGED, "sac", 0, [3.0, 4.0], success=[(2, 1), (1, 0)])
    experiment = load(folder)
    assert experiment.success_tasks == [JUDGED]
    assert experiment.measures(JUDGED) == ("success", "final_success", "return")
    assert experiment.measures(TASK) == ("return",)
    found = {measure: experiment.curves(measure) for measure in MEASURES}
    rates = {
        (task, measure): curves.loc[curves["task"] == task, measure].tolist()
        for measure, curves in found.items()
        for task in (TASK, JUDGED)
    }
    assert rates[JUDGED, "return"] == [3.0, 4.0]
    assert rates[JUDGED, "success"] == [1.0, 0.5]
    assert rates[JUDGED, "final_success"] == [0.5, 0.0]
    assert rates[TASK, "return"] == [1.0, 2.0]
    assert np.isnan(rates[TASK, "success"] + rates[TASK, "final_success"]).tolist() == [True] * 4


def test_success_rates_of_runs(folder):
    write_run(folder, JUDGED, "sac", 0, [0.0] * 3, success=[(0, 0), (2, 1), (1, 0)])
    write_run(folder, JUDGED, "sac", 1, [0.0] * 3)
    experiment = load(folder)
    found = {
        (statistic, measure): run_values(experiment, statistic, measure)["value"].iloc[0]
        for statistic in ("last", "best")
        for measure in ("success", "final_success")
    }
    assert found == {
        ("last", "success"): 0.5,
        ("last", "final_success"): 0.0,
        ("best", "success"): 1.0,
        ("best", "final_success"): 0.5,
    }
    # A run of the other header: its return counts, and it has no rates.
    assert run_values(experiment, "last", "success")["mark"].tolist() == [
        "",
        "without success rate",
    ]
    assert marks(experiment) == ["", ""]


def test_run_time_is_per_1000_steps(folder):
    seconds = {"env": 1.0, "act": 2.0, "update": 3.0, "eval": 4.0}
    write_run(folder, TASK, "sac", 0, [1.0, 2.0], seconds=seconds, every=500)
    times = measure_run_times(load(folder)).iloc[0]
    assert {phase: times[phase] for phase in seconds} == pytest.approx(seconds)
    assert times["total"] == pytest.approx(10.0)


def test_scores_are_normalised_where_constants_exist(folder):
    write_run(folder, "mbbl/Pendulum", "sac", 0, [168.2])
    write_run(folder, "mbbl/Pendulum", "sac", 1, [-202.6])
    write_run(folder, "nowhere/Task", "sac", 0, [1.0])
    found = scores_by_task(load(folder), "last")["sac"]
    assert list(found) == ["mbbl/Pendulum"]
    np.testing.assert_allclose(found["mbbl/Pendulum"], [1.0, 0.0], atol=1e-12)


def test_scores_with_settings_and_of_success(folder):
    pixels = "dmc/cheetah-run@pixels+size=64"
    write_run(folder, pixels, "sac", 0, [250.0])
    write_run(folder, "dmc/lqr-lqr-2-1", "sac", 0, [250.0])
    write_run(folder, JUDGED, "sac", 0, [250.0], success=[(1, 0)])
    assert scores_by_task(load(folder), "last") == {"sac": {pixels: [0.25], JUDGED: [0.5]}}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("evaluations.csv", "step,return\n1,2\n", EVALUATIONS_HEADER),
        ("evaluations.csv", f"{EVALUATIONS_HEADER},extra\n", f"'.*' or '{SUCCESS_HEADER}'"),
        ("evaluations.csv", f"{SUCCESS_HEADER},extra\n", f"'.*' or '{SUCCESS_HEADER}'"),
        ("evaluations.csv", f"{SUCCESS_HEADER}\n1,0,1,1,\n", "line 2"),
        ("evaluations.csv", f"{EVALUATIONS_HEADER}\n1,2\n3,0,1,1,\n", "line 2"),
        ("evaluations.csv", f"{EVALUATIONS_HEADER}\n,0,1,1,\n", "env_step is empty"),
        ("evaluations.csv", f"{EVALUATIONS_HEADER}\n1,0,good,1,\n", "cannot be read as numbers"),
        ("timing.csv", "seconds\n", TIMING_HEADER),
    ],
)
def test_a_csv_that_breaks_the_format_is_an_error(folder, file, text, message):
    (write_run(folder, TASK, "sac", 0, [1.0]) / file).write_text(text)
    with pytest.raises(ExperimentError, match=message) as error:
        load(folder)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_train_header_is_an_error(tmp_path):
    (tmp_path / "train.csv").write_text("loss\n1\n")
    with pytest.raises(ExperimentError, match="expected 'env_step'"):
        read_table(tmp_path / "train.csv", ["env_step"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ("{}", "no field 'format'"),
        ('{"format": 2}', "format 2; expected 1"),
        ('{"format": 1, "protocol": 3}', "breaks the format"),
    ],
)
def test_a_bad_experiment_file_is_an_error(folder, text, message):
    write_run(folder, TASK, "sac", 0, [1.0])
    (folder / "experiment.json").write_text(text)
    with pytest.raises(ExperimentError, match=message):
        load(folder)


def test_an_unknown_statistic_is_an_error(tmp_path):
    folder = write_experiment(tmp_path / "quick", reported="last,median")
    with pytest.raises(ExperimentError, match="'median'; expected some of last, last4, best"):
        load(folder)


def test_missing_and_empty_experiments_are_errors(folder):
    with pytest.raises(ExperimentError, match=r"'.*/none'; experiments in .*: quick"):
        load(folder.parent / "none")
    with pytest.raises(ExperimentError, match="not an experiment"):
        load(folder.parent)
    with pytest.raises(ExperimentError, match="holds no run"):
        load(folder)


def test_the_protocol_is_read(tmp_path):
    folder = write_experiment(tmp_path / "full", name="full", reduced=False, reported="last, best")
    write_run(folder, TASK, "sac", 0, [1.0])
    protocol = load(folder).protocol
    assert protocol.reported == ("last", "best")
    assert protocol.notice == ""
    assert json.loads((folder / "experiment.json").read_text())["name"] == load(folder).name
