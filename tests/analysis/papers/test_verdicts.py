"""Published numbers beside measured ones: what is compared, and the verdict."""

from dataclasses import replace

import pytest

from analysis.data.load import load
from analysis.data.published import Published, numbers
from analysis.drawing.tables import Cell
from analysis.papers import verdicts
from analysis.papers.verdicts import Measured, environment, measured_beside_published, verdict
from tests.helpers.experiments import write_experiment, write_run

TASK = "mbbl/HalfCheetah"
PUBLISHED = Published(
    task=TASK,
    method="sac",
    printed="SAC",
    metric="return",
    statistic="last4",
    steps=200_000,
    mean=100.0,
    std=10.0,
    spread="std",
    seeds=4,
    environment="MBBL",
    source="MBBL 200K",
    reading="table",
    copied_from="",
    original_mean=None,
    original_std=None,
    note="",
)
FULL = {"name": "full", "reduced": False, "steps": 200_000, "reported": "last4,last"}


def write(path, label="sac", value=100.0, seeds=2, task=TASK, **changes):
    """Write an experiment in which every seed has the same value at every evaluation."""
    folder = write_experiment(path, **FULL | changes)
    for seed in range(seeds):
        write_run(folder, task, label, seed, [value] * 4, title="SAC")
    return load(folder)


@pytest.fixture
def full(tmp_path):
    return write(tmp_path / "full")


@pytest.fixture
def measured(full):
    return Measured(full, TASK, "last4", Cell(100.0, 2, 1.0))


def rules(measured, **changes):
    """The same runs under other rules."""
    experiment = measured.experiment
    protocol = replace(experiment.protocol, **changes)
    return replace(measured, experiment=replace(experiment, protocol=protocol))


def shipped(source, task=TASK):
    return next(x for x in numbers() if x.source == source and x.task == task and x.method == "sac")


@pytest.mark.parametrize(
    ("value", "word"),
    [(100.0, "inside"), (110.0, "inside"), (90.0, "inside"), (110.1, "above"), (89.9, "below")],
)
def test_words(measured, value, word):
    assert str(verdict(PUBLISHED, replace(measured, cell=Cell(value, 2, 50.0)))) == word


def test_the_number_at_the_end_may_be_compared_with_the_last_evaluations(measured):
    end = replace(PUBLISHED, statistic="end")
    assert verdict(end, measured).word == "inside"
    assert verdict(end, replace(measured, statistic="last")).word == "inside"
    assert verdict(end, replace(measured, statistic="best")).word == "not comparable"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"environment": "MuJoCo v3"}, "MuJoCo v3, not MBBL"),
        ({"steps": 1_000_000}, "200,000 of 1,000,000 steps"),
        ({"steps": None}, "published budget not stated"),
        ({"statistic": "best"}, "other statistic"),
        ({"statistic": "last"}, "other statistic"),
        ({"statistic": "unstated"}, "other statistic"),
        ({"metric": "success (any step)"}, "published is success (any step)"),
        ({"std": None}, "published without a spread over seeds"),
        ({"spread": "episodes"}, "published without a spread over seeds"),
        ({"mean": None, "std": None, "note": "printed as N/A"}, "printed as N/A"),
    ],
)
def test_what_is_published_may_not_be_comparable(measured, changes, reason):
    found = verdict(replace(PUBLISHED, **changes), measured)
    assert (found.word, found.reasons) == ("not comparable", (reason,))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"reduced": True}, "reduced protocol"), ({"steps": 3000}, "3,000 of 200,000 steps")],
)
def test_what_is_measured_may_not_be_comparable(measured, changes, reason):
    found = verdict(PUBLISHED, rules(measured, **changes))
    assert (found.word, found.reasons) == ("not comparable", (reason,))


def test_all_reasons_are_given(measured):
    other = replace(PUBLISHED, environment="MuJoCo v3", statistic="best")
    single = replace(rules(measured, reduced=True, steps=3000), cell=Cell(100.0, 1))
    assert str(verdict(other, single)) == (
        "not comparable: MuJoCo v3, not MBBL, reduced protocol, 3,000 of 200,000 steps, "
        "other statistic, one seed"
    )


def test_nothing_to_compare(measured):
    assert str(verdict(PUBLISHED, None)) == "not measured"
    assert str(verdict(PUBLISHED, replace(measured, cell=Cell(marks=("failed",))))) == (
        "not measured"
    )
    assert str(verdict(None, measured)) == "not published"


@pytest.mark.parametrize(("value", "word"), [(4000.0, "inside"), (5000.0, "above")])
def test_a_full_protocol_is_judged_by_the_original_table(tmp_path, value, word):
    row = measured_beside_published("sac", [write(tmp_path / "full", value=value)])[0]
    assert row.task == TASK
    assert row.published == shipped("MBBL 200K")
    assert row.measured.cell == Cell(value, 2, 0.0)
    assert str(row.verdict) == word


def test_published_numbers_of_dipo_are_compared_with_the_variant_that_they_are_of(tmp_path):
    published, other = "gym/Ant-v5", "toy/lqr"
    experiments = [
        write(tmp_path / f"{k}", label=label, value=value, task=task, steps=1_000_000)
        for k, (label, value, task) in enumerate(
            [
                ("dipo", 1.0, published),
                ("dipo@write_back=false", 2.0, published),
                ("dipo@released", 3.0, published),
                ("dipo", 4.0, other),
                ("dipo@write_back=false", 5.0, other),
            ]
        )
    ]
    rows = {row.task: row for row in measured_beside_published("dipo", experiments)}
    assert rows[published].measured.cell.value == 2.0
    assert rows[other].measured.cell.value == 4.0
    [default, *_] = measured_beside_published("dipo", experiments[:1])
    assert str(default.verdict) == "not measured"


def test_the_comparable_pair_is_chosen(tmp_path):
    write(tmp_path / "quick", name="quick", reduced=True, steps=3000)
    write(tmp_path / "full")
    write(tmp_path / "long", steps=1_000_000)
    first, second, third = (load(tmp_path / name) for name in ("quick", "full", "long"))
    [row, *_] = measured_beside_published("sac", [first, second])
    assert (row.measured.experiment.name, row.published.steps) == ("full", 200_000)
    [row, *_] = measured_beside_published("sac", [first, third])
    assert (row.measured.experiment.name, row.published.steps) == ("full", 1_000_000)
    assert row.published == shipped("MBBL 1M")
    assert [x.source for x in row.others] == ["MBBL 200K"]


def test_without_a_comparable_pair_full_and_long_runs_come_first(tmp_path):
    short = write(tmp_path / "a", name="short", steps=10_000)
    long = write(tmp_path / "b", name="long", steps=20_000)
    reduced = write(tmp_path / "c", name="reduced", steps=30_000, reduced=True)
    row = measured_beside_published("sac", [short, reduced, long])[0]
    assert row.measured.experiment.name == "long"
    assert row.published.source == "MBBL 200K"


def test_the_published_statistic_is_measured(tmp_path, monkeypatch):
    folder = write_experiment(tmp_path / "full", **FULL)
    for seed in range(2):
        write_run(folder, TASK, "sac", seed, [90.0, 500.0, 110.0, 100.0, 104.0])
    values = {"last": 104.0, "last4": 203.5, "best": 500.0, "end": 203.5, "unstated": 203.5}
    for statistic, value in values.items():
        number = replace(PUBLISHED, statistic=statistic)
        monkeypatch.setattr(verdicts, "numbers", lambda number=number: (number,))
        [row] = measured_beside_published("sac", [load(folder)])
        assert row.measured.cell.value == value, statistic


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("mbbl/Ant", "MBBL"),
        ("gym/Ant-v5", "MuJoCo v5"),
        ("gym/Ant-v4", "MuJoCo v4"),
        ("dmc/cheetah-run", "DMControl, states"),
        ("dmc/cheetah-run@action_repeat=2", "DMControl, states, action_repeat=2"),
        ("dmc/cheetah-run@pixels", "DMControl, 84×84 pixels without shadows"),
        ("dmc/cheetah-run@pixels+shadows", "DMControl, 84×84 pixels"),
        ("dmc/cheetah-run@pixels+size=64+shadows", "DMControl, 64×64 pixels"),
        ("metaworld/sweep", "Meta-World v3, 84×84 pixels without shadows"),
        ("metaworld/sweep@size=64+frames=1+shadows", "Meta-World v3, 64×64 pixels, frames=1"),
        ("pomdp/Ant", "velocities masked"),
        ("pomdp/Ant@history=4", "velocities masked, history=4"),
        ("elsewhere/Ant", "elsewhere"),
    ],
)
def test_environments_are_named_as_published(task, name):
    assert environment(task) == name


def test_a_run_from_states_is_not_put_beside_a_number_from_images(tmp_path):
    state, pixels = "dmc/cheetah-run", "dmc/cheetah-run@pixels+shadows"
    folder = write_experiment(tmp_path / "full", **FULL | {"steps": 1_000_000, "reported": "last"})
    for task in (state, pixels, "dmc/cheetah-run@pixels+size=64"):
        for seed in range(2):
            write_run(folder, task, "drqv2", seed, [1.0] * 4)
    rows = {row.task: row for row in measured_beside_published("drqv2", [load(folder)])}
    assert rows[state].published is None
    assert rows[state].verdict.word == "not published"
    assert rows[pixels].published.environment == "DMControl, 84×84 pixels"
    assert rows[pixels].verdict.reasons[-1] == "other statistic"
    assert rows["dmc/cheetah-run@pixels+size=64"].verdict.reasons[0] == (
        "DMControl, 84×84 pixels, not DMControl, 64×64 pixels without shadows"
    )
    assert rows["dmc/walker-walk@pixels"].verdict.word == "not measured"
    # All pixel numbers of the measured task are with its runs.
    assert "dmc/cheetah-run@pixels" not in rows


JUDGED = "metaworld/sweep"


@pytest.fixture
def judged(tmp_path):
    folder = write_experiment(tmp_path / "full", **FULL)
    for seed in range(2):
        write_run(folder, JUDGED, "sac", seed, [7.0] * 4, success=[(2, 1)] * 4)
    return load(folder)


@pytest.mark.parametrize(
    ("metric", "value"),
    [("success (any step)", 1.0), ("success (last step)", 0.5), ("return", 7.0)],
)
def test_success_is_compared_in_the_published_reading(judged, monkeypatch, metric, value):
    here = environment(JUDGED)
    number = replace(PUBLISHED, task=JUDGED, metric=metric, mean=value, std=0.1, environment=here)
    monkeypatch.setattr(verdicts, "numbers", lambda: (number,))
    [row] = measured_beside_published("sac", [judged])
    assert (row.measured.metric, row.measured.cell.value) == (metric, value)
    assert str(row.verdict) == "inside"
    monkeypatch.setattr(verdicts, "numbers", lambda: (replace(number, mean=value - 0.2),))
    [row] = measured_beside_published("sac", [judged])
    assert str(row.verdict) == "above"


def test_without_a_published_number_success_at_any_step_comes_first(judged, monkeypatch):
    monkeypatch.setattr(verdicts, "numbers", lambda: ())
    [row] = measured_beside_published("sac", [judged])
    assert (row.measured.metric, row.measured.cell.value) == ("success (any step)", 1.0)


def test_a_published_success_rate_is_not_compared_with_a_return(tmp_path, monkeypatch):
    number = replace(PUBLISHED, metric="success (any step)", mean=1.0)
    monkeypatch.setattr(verdicts, "numbers", lambda: (number,))
    [row] = measured_beside_published("sac", [write(tmp_path / "full", value=1.0)])
    assert str(row.verdict) == "not comparable: published is success (any step)"


def test_published_success_rates_are_of_another_meta_world(judged):
    rows = {row.task: row for row in measured_beside_published("sac", [judged])}
    assert rows[JUDGED].published.metric == "success (last step)"
    assert rows[JUDGED].measured.cell.value == 0.5
    assert rows[JUDGED].verdict.reasons[0] == (
        "Meta-World v2, states, not Meta-World v3, 84×84 pixels without shadows"
    )


def test_copies_stay_out_unless_they_are_wrong(monkeypatch):
    copy = replace(PUBLISHED, source="LV-Rep Table 1", copied_from="MBBL 200K: SAC")
    wrong = replace(copy, source="CTRL Table 1", mean=101.0, original_mean=100.0, original_std=10.0)
    monkeypatch.setattr(verdicts, "numbers", lambda: (copy, wrong, PUBLISHED))
    [row] = measured_beside_published("sac", [])
    assert row.published == PUBLISHED
    assert row.others == (wrong,)


def test_a_source_with_several_numbers_gives_its_longest_run(monkeypatch):
    late = replace(PUBLISHED, steps=1_000_000)
    hours = replace(PUBLISHED, metric="hours", task="mbbl/Ant")
    monkeypatch.setattr(verdicts, "numbers", lambda: (PUBLISHED, late, hours))
    [row] = measured_beside_published("sac", [])
    assert (row.published, row.others) == (late, ())


def test_variants_and_other_algorithms_are_not_measured(tmp_path):
    folder = write_experiment(tmp_path / "full", **FULL)
    for label in ("sac@released", "qvpo"):
        write_run(folder, TASK, label, 0, [1.0] * 4)
    assert all(row.measured is None for row in measured_beside_published("sac", [load(folder)]))


def test_a_task_that_only_other_algorithms_ran_is_not_measured(tmp_path):
    folder = write_experiment(tmp_path / "full", **FULL)
    write_run(folder, TASK, "qvpo", 0, [1.0] * 4)
    write_run(folder, "mbbl/Pendulum", "sac", 0, [1.0] * 4)
    rows = measured_beside_published("sac", [load(folder)])
    assert [row.task for row in rows if row.measured] == ["mbbl/Pendulum"]


def test_failed_runs_are_shown_and_do_not_count(tmp_path):
    folder = write_experiment(tmp_path / "full", **FULL)
    write_run(folder, TASK, "sac", 0, [1.0] * 4, status="failed", reason="boom")
    row = measured_beside_published("sac", [load(folder)])[0]
    assert row.measured.cell == Cell(marks=("failed",))
    assert row.verdict.word == "not measured"


def test_measured_tasks_come_first_and_need_no_published_number(tmp_path):
    tasks = [row.task for row in measured_beside_published("qvpo", [])]
    row, *rest = measured_beside_published("qvpo", [write(tmp_path / "full", label="qvpo")])
    assert (row.task, row.published, row.verdict.word) == (TASK, None, "not published")
    assert [row.task for row in rest] == tasks
    assert tasks == sorted(tasks)
    assert len(tasks) == 5


def test_suites_that_are_here_come_first():
    suites = [row.task.split("/")[0] for row in measured_beside_published("sac", [])]
    assert list(dict.fromkeys(suites)) == ["mbbl", "gym", "dmc", "metaworld", "pomdp"]


def test_an_algorithm_nobody_knows_has_no_rows(full):
    assert measured_beside_published("nobody", [full]) == []


def test_pixels_compare_with_the_published_version_for_pixels():
    """muLV-Rep is what `lvrep` runs on images; on masked states it is another algorithm."""
    rows = measured_beside_published("lvrep", [])
    pixels = [row for row in rows if row.task.startswith("metaworld/")]
    assert len(pixels) == 50
    assert {row.published.printed for row in pixels} == {"muLV-Rep"}
    assert {row.published.metric for row in pixels} == {"success (any step)"}
    assert all(row.published.printed != "muLV-Rep" for row in rows if row not in pixels)
    masked = measured_beside_published("mulvrep", [])
    assert {row.task.split("/")[0] for row in masked} == {"pomdp"}
