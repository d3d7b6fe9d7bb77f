"""Comparing two experiments: what changed, what it did, and the exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.compare import compare, main, match
from analysis.data.changes import what_changed
from analysis.data.load import load
from tests.helpers.experiments import write_experiment, write_run

TASK = "mbbl/HalfCheetah"
FULL = {"name": "full", "reduced": False, "steps": 4000}
BEFORE, AFTER = [100.0, 120.0, 90.0, 110.0], [130.0, 152.0, 118.0, 141.0]


def write(folder: Path, values, label="sac", first=0, seconds=2.0, manifest=None, **changes):
    """Write one run per value, from seed `first` on; `manifest` changes each run.json."""
    if not folder.exists():
        write_experiment(folder, **FULL | changes)
    for seed, value in enumerate(values, first):
        phases = {"env": 0.0, "act": 0.0, "eval": 0.0, "update": seconds}
        cell = write_run(folder, TASK, label, seed, [0.0, value], seconds=phases)
        file = cell / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | (manifest or {})))
    return folder


def effects(before: Path, after: Path, **options):
    experiments = load(before), load(after)
    return compare(*experiments, match(*experiments), options.get("statistic", "last"))


def changes(before: Path, after: Path, wanted=()) -> list[str]:
    experiments = load(before), load(after)
    return [str(x) for x in what_changed(*experiments, match(*experiments, wanted))]


def test_the_difference_is_over_pairs_of_common_seeds(tmp_path):
    [found] = effects(write(tmp_path / "a", BEFORE), write(tmp_path / "b", [*AFTER, 9999.0]))
    interval = scipy_stats.ttest_rel(AFTER, BEFORE).confidence_interval()
    assert found.change.point == pytest.approx(np.mean(AFTER) - np.mean(BEFORE))
    assert (found.change.low, found.change.high) == pytest.approx(tuple(interval))
    assert (found.pairs, found.verdict) == (4, "clear")


def test_without_common_seeds_all_are_compared(tmp_path):
    [found] = effects(write(tmp_path / "a", BEFORE), write(tmp_path / "b", AFTER, first=4))
    interval = scipy_stats.ttest_ind(AFTER, BEFORE, equal_var=False).confidence_interval()
    assert (found.change.low, found.change.high) == pytest.approx(tuple(interval))
    assert found.pairs == 0


def test_chance_is_not_clear(tmp_path):
    shuffled = [BEFORE[i] for i in (1, 0, 3, 2)]
    [found] = effects(write(tmp_path / "a", BEFORE), write(tmp_path / "b", shuffled))
    assert found.verdict == "not clear"


def test_equal_evaluations_are_identical(tmp_path):
    one, two = write(tmp_path / "a", BEFORE), write(tmp_path / "b", BEFORE)
    assert effects(one, two)[0].verdict == "identical"
    file = two / TASK / "sac" / "seed-3" / "evaluations.csv"
    file.write_text(file.read_text().replace("1000,0,-1.0", "1000,0,-1.5"))
    assert effects(one, two)[0].verdict == "not clear"


def test_the_statistic_may_be_chosen(tmp_path):
    one, two = write(tmp_path / "a", BEFORE), write(tmp_path / "b", [-5.0, -7.0, -5.0, -6.0])
    assert effects(one, two, statistic="best")[0].after.value == 0.0


def test_run_times_are_a_ratio(tmp_path):
    one, two = write(tmp_path / "a", BEFORE), write(tmp_path / "b", AFTER, seconds=3.0)
    [found] = effects(one, two)
    assert found.time_ratio.point == pytest.approx(1.5)
    assert [cell.value for cell in found.times] == pytest.approx([2.0, 3.0])


def test_what_changed_is_listed(tmp_path):
    old = {
        "config": {"tau": 0.005, "hidden": 256},
        "code": {"version": "0.1.0", "commit": "abc", "dirty": False},
        "packages": {"torch": "2.12", "numpy": "2.3.5"},
        "machine": {"cpu": "one", "cores": 2},
    }
    new = {
        "config": {"tau": 0.01, "hidden": 256, "extra": True},
        "code": {"version": "0.1.0", "commit": "def", "dirty": True},
        "packages": {"torch": "2.13", "numpy": "2.3.5"},
        "machine": {"cpu": "two", "cores": 2},
    }
    one = write(tmp_path / "a", BEFORE, manifest=old)
    # A method that is not compared does not add its circumstances.
    write(one, BEFORE, label="td3", manifest={"device": "cuda"})
    two = write(tmp_path / "b", AFTER, manifest=new, steps=5000)
    assert changes(one, two) == [
        "protocol steps: 4000 → 5000",
        "code.commit: abc → def",
        "code.dirty: False → True",
        "packages.torch: 2.12 → 2.13",
        "machine.cpu: one → two",
        "SAC: tau: 0.005 → 0.01",
        "SAC: extra: not recorded → True",
        "methods not compared: td3 → none",
    ]
    assert changes(one, one) == []


def test_methods_with_other_names_are_matched_on_request(tmp_path, capsys):
    one = write(tmp_path / "a", BEFORE)
    two = write(tmp_path / "b", AFTER, label="sac@tau=0.01")
    assert main([str(one), str(two)]) == 2
    assert "A has sac, B has sac@tau=0.01; say which to compare by" in capsys.readouterr().err
    assert main([str(one), str(two), "--match", "sac", "sac@tau=0.01"]) == 0
    assert f"{TASK}, SAC → SAC (tau=0.01)" in capsys.readouterr().out


def test_success_rates_are_compared_in_percent(tmp_path):
    task = "metaworld/sweep"
    for name, count in (("a", 1), ("b", 2)):
        folder = write_experiment(tmp_path / name, **FULL)
        for seed in range(3):
            write_run(folder, task, "sac", seed, [5.0], success=[(count, 0)])
    [found] = effects(tmp_path / "a", tmp_path / "b")
    assert (found.before.value, found.after.value, found.change.point) == (50.0, 100.0, 50.0)


@pytest.mark.parametrize(
    ("values", "percent", "code"),
    [
        (BEFORE, "0", 0),
        ([60.0, 79.0, 52.0, 70.0], "10", 1),  # clearly lower, by about 38 %
        ([60.0, 79.0, 52.0, 70.0], "50", 0),
        ([20.0, 160.0, 30.0, 150.0], "0", 0),  # lower, but not clearly
        (AFTER, "0", 0),
    ],
)
def test_a_clear_fall_may_fail(tmp_path, capsys, values, percent, code):
    one, two = write(tmp_path / "a", BEFORE), write(tmp_path / "b", values)
    assert main([str(one), str(two), "--fail-below", percent]) == code
    error = capsys.readouterr().err
    assert error == (f"failed: SAC on {TASK} fell by more than {percent} %\n" if code else "")


def test_the_page_says_everything(tmp_path, capsys):
    one = write(tmp_path / "a", BEFORE, reduced=True)
    two = write(tmp_path / "b", AFTER, name="other", steps=5000)
    assert main([str(one), str(two), "--out", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("# full (A) and other (B)\n")
    assert "- protocol steps: 4000 → 5000\n" in page
    assert "The two have other budgets" in page
    assert "Reduced protocol `full`: not comparable with published numbers." in page
    assert f"| {TASK}, SAC | 105.0 ± 12.9 (n=4) | 135.2 ± 14.6 (n=4) | 30.2 [" in page
    assert "1 of 1 changes are clear" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}", "nowhere"], "no experiment folder 'nowhere'"),
        (["{a}", "{a}", "--statistic", "mode"], "unknown statistic 'mode'; expected one of last"),
        (["{a}", "{a}", "--match", "sac", "td3"], "no method 'td3' in experiment"),
        (["{a}", "{c}"], f"no task is in both experiments: A has {TASK}, B has mbbl/Ant"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    write(tmp_path / "a", BEFORE)
    write_run(write_experiment(tmp_path / "c", **FULL), "mbbl/Ant", "sac", 0, [1.0])
    named = [text.format(a=tmp_path / "a", c=tmp_path / "c") for text in arguments]
    assert main(named) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
