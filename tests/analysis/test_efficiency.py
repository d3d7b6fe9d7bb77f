"""Areas, steps to a threshold, pairs of runs, and the figure of profiles."""

import re

import numpy as np
import pandas as pd
import pytest

from analysis import efficiency
from analysis.data.load import load
from analysis.data.scores import normalised_scores
from analysis.data.values import areas, paired, run_values, steps_to_thresholds
from analysis.drawing import profiles
from tests.helpers.experiments import write_experiment, write_run

TASK, OTHER, JUDGED = "mbbl/Pendulum", "nowhere/Task", "metaworld/door-open"
HALF = -202.6 + 0.5 * (168.2 + 202.6)
"""The return on `TASK` with a normalised score of 0.5, by normalisation.csv."""


@pytest.fixture
def folder(tmp_path):
    folder = write_experiment(tmp_path / "quick")
    write_run(folder, TASK, "sac", 0, [-100.0, -20.0, 50.0], title="SAC")
    write_run(folder, TASK, "sac", 1, [-100.0, -50.0, HALF - 1], title="SAC")
    write_run(folder, TASK, "sac", 2, [60.0], title="SAC", status="failed")
    write_run(folder, TASK, "td3", 1, [HALF, 100.0, 150.0], title="TD3")
    write_run(folder, TASK, "td3", 0, [-100.0, 100.0, 140.0], title="TD3")
    write_run(folder, OTHER, "sac", 0, [1.0, 2.0, 3.0], title="SAC")
    write_run(folder, JUDGED, "sac", 0, [0.0] * 3, success=[(0, 0), (1, 0), (2, 0)], title="SAC")
    return folder


def of(values, label, task=TASK):
    chosen = values[(values["label"] == label) & (values["task"] == task)]
    return list(chosen[["value", "mark"]].itertuples(index=False, name=None))


def test_values_by_hand(folder):
    experiment = load(folder)
    assert of(areas(experiment), "sac")[0] == (-22.5, "")
    assert of(areas(experiment), "sac", OTHER)[0] == (2.0, "")
    steps = steps_to_thresholds(experiment, {TASK: HALF})
    assert of(steps, "sac") == [(3000, ""), (np.inf, "not reached"), (1000, "failed")]
    assert of(steps, "td3")[:2] == [(2000, ""), (1000, "")]
    assert steps["task"].unique().tolist() == [TASK]
    rates = steps_to_thresholds(experiment, {JUDGED: 0.5, TASK: 0.5}, "success")
    assert of(rates, "sac", JUDGED)[0] == (2000, "")
    assert of(rates, "sac")[0][1] == "without success rate"


def test_pairs_share_task_and_seed(folder):
    pairs = paired(run_values(load(folder), "last"), "td3", "sac")
    expected = pd.DataFrame(
        {"task": TASK, "seed": [0, 1], "first": [140.0, 150.0], "second": [50.0, HALF - 1]}
    )
    pd.testing.assert_frame_equal(pairs, expected, check_names=False)


def test_tables_on_the_terminal(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert efficiency.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"{TASK} +3,000 \(n=1, 1 failed, 1 not reached\) +1,500 ± 707", printed)
    assert f"Thresholds: {TASK} {HALF:.4g}." in printed
    assert re.search(rf"score of 0.5 \(success\)\n\n.*\n-+\n{JUDGED} +2,000 \(n=1", printed)
    assert printed.count("Reduced protocol") == 3
    assert efficiency.main([str(folder), "--score", "-1"]) == 0
    assert re.search(rf"{TASK} +1,000 ± 0 \(n=2, 1 failed\)", capsys.readouterr().out)


def test_a_wrong_folder_is_one_line(tmp_path, capsys):
    assert efficiency.main([str(tmp_path / "none")]) == 2
    assert re.fullmatch("error: no experiment folder .*\n", capsys.readouterr().err)


def test_profiles_draw_the_methods_that_finished_everywhere(folder, monkeypatch):
    for label, value in {"sac": 0.0, "td3": 100.0, "qvpo": 160.0}.items():
        write_run(folder, "mbbl/HalfCheetah", label, 0, [value] * 3)
    write_run(folder, JUDGED, "td3", 0, [0.0] * 3, success=[(2, 0)] * 3)
    experiment = load(folder)
    scores = normalised_scores(experiment)
    assert profiles.methods(scores) == ["td3", "sac"]
    # On Pendulum each run of TD3 beats both of SAC, on HalfCheetah too; on door-open it is a tie.
    assert profiles.improvements(scores)["sac"].point == pytest.approx(2.5 / 3)
    figures = []
    monkeypatch.setattr(profiles.style, "save", lambda figure, stem: figures.append(figure))
    profiles.draw(experiment, scores, folder / "profiles")
    [left, right] = figures[0].axes
    [better, worse] = [line.get_ydata() for line in left.get_lines()]
    assert (better >= worse).all()
    assert better[-1] == worse[-1] == 0
    assert right.get_title() == "TD3 (n=1–2) better than …"
    assert [text.get_text() for text in right.get_yticklabels()] == ["SAC (n=1–2)"]
    assert "reduced protocol" in " ".join(text.get_text() for text in figures[0].texts)
