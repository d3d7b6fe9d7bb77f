"""The published numbers that the project ships."""

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest

from analysis.data import published
from analysis.data.published import STATISTICS, Published, normalisation, numbers, sources
from analysis.statistics.run_statistics import RUN_STATISTICS
from envs import list_tasks
from envs import task as task_facts

# Tasks that have published numbers and are not in the registry.
FOREIGN_TASKS = {
    "dmc/cheetah-run-sparse",
    "dmc/reach-duplo@pixels",
    "dmc/walker-run-sparse",
    "gym/InvertedDoublePendulum-v5",
    "gym/InvertedPendulum-v5",
    "gym/Pusher-v5",
    "gym/Reacher-v5",
    "metaworld/aggregate-of-50",
    "metaworld/mean-of-50",
    "pomdp/cheetah-run",
    "pomdp/hopper-run",
    "pomdp/humanoid-run",
    "pomdp/walker-run",
}
# Copied wrongly from MBBL by the Diff-SR, LV-Rep, SPEDER and CTRL tables alike.
MISCOPIED = {
    ("ME-TRPO", "mbbl/Hopper-ET"): (1272.5, 500.9, 4.9, 4.0),
    ("ME-TRPO", "mbbl/SlimHumanoid-ET"): (-154.9, 534.3, 76.1, 8.8),
    ("ME-TRPO", "mbbl/Walker2D-ET"): (-1609.3, 657.5, -9.5, 4.6),
    ("ME-TRPO", "mbbl/Reacher"): (-13.4, 5.2, -13.4, 0.2),
    ("PETS-RS", "mbbl/Walker2D-ET"): (312.5, 493.4, -0.8, 3.2),
    ("PETS-RS", "mbbl/Humanoid-ET"): (109.6, 102.6, 106.9, 102.6),
    ("PETS-CEM", "mbbl/Walker2D-ET"): (260.2, 536.9, -2.5, 6.8),
    ("PETS-CEM", "mbbl/CartPole"): (195.5, 3.0, 199.5, 3.0),
    ("PETS-CEM", "mbbl/Humanoid-ET"): (110.8, 90.1, 110.8, 91.0),
    ("Best MBBL", "mbbl/Hopper-ET"): (1272.5, 500.9, 926.9, 154.1),
    ("Best MBBL", "mbbl/Walker2D-ET"): (312.5, 493.4, 350.0, 107.6),
    ("Best MBBL", "mbbl/HalfCheetah"): (3639.0, 1135.8, 3639.0, 1185.8),
    ("SAC (3-layer)", "mbbl/SlimHumanoid-ET"): (834.6, 313.1, 843.6, 313.1),
}


def find(source: str, printed: str, task: str, metric: str = "return") -> Published:
    [number] = [
        x
        for x in numbers()
        if (x.source, x.printed, x.task, x.metric) == (source, printed, task, metric)
    ]
    return number


def test_every_cell_stands_once():
    keys = Counter(
        (x.task, x.printed, x.metric, x.statistic, x.steps, x.environment, x.source)
        for x in numbers()
    )
    assert [key for key, count in keys.items() if count > 1] == []
    assert len(keys) > 2000


def test_tasks_are_known_or_named_as_foreign():
    tasks, known = {x.task for x in numbers()}, set(list_tasks())
    foreign = {task for task in tasks if task.partition("@")[0] not in known}
    assert foreign == FOREIGN_TASKS
    assert all(task_facts(task).id == task for task in tasks - foreign)


def test_the_ids_of_images_and_of_states_differ():
    numbers_of_dmc = [x for x in numbers() if x.task.startswith("dmc/")]
    assert {x.environment for x in numbers_of_dmc if x.task.endswith("@pixels")} == {
        "DMControl, 64×64 pixels",
        "DMControl, 84×84 pixels",
    }
    assert {x.environment for x in numbers_of_dmc if "@" not in x.task} == {"DMControl, states"}


def test_fields_keep_to_their_words():
    assert {x.metric for x in numbers()} == {
        "return",
        "success (any step)",
        "success (last step)",
        "hours",
    }
    assert {x.statistic for x in numbers()} == set(STATISTICS)
    assert set(RUN_STATISTICS) < set(STATISTICS)
    assert {x.reading for x in numbers()} == {"table", "text", "figure", "file", "summary"}
    assert {x.spread for x in numbers() if x.std is None} == {""}
    assert {x.spread for x in numbers() if x.std is not None} == {
        "std",
        "population std",
        "standard error",
        "episodes",
        "tasks",
        "unstated",
    }
    assert {x.environment for x in numbers() if x.task.startswith("mbbl/")} == {"MBBL"}
    assert all(x.method and x.printed for x in numbers())


def test_numbers_lie_in_their_range():
    assert all(x.note for x in numbers() if x.mean is None)
    assert all(0 <= x.mean <= 1 for x in numbers() if x.mean and x.metric.startswith("success"))
    assert all(x.std >= 0 for x in numbers() if x.std is not None)
    assert all(1 <= x.seeds <= 10 for x in numbers() if x.seeds is not None)
    assert all(50_000 <= x.steps <= 30_000_000 for x in numbers() if x.steps is not None)


def test_sources_are_used_and_explained():
    assert {x.source for x in numbers()} == set(sources().index)
    assert sources()["reference"].all()
    readme = (Path(published.__file__).parent / "README.md").read_text()
    missing = [field.name for field in fields(Published) if f"`{field.name}`" not in readme]
    assert missing + [name for name in STATISTICS if f"`{name}`" not in readme] == []


def test_a_copy_has_the_value_of_its_original_or_gives_it():
    copies = [x for x in numbers() if x.copied_from]
    assert len(copies) > 300
    for copy in copies:
        source, printed = copy.copied_from.split(": ")
        original = find(source, printed, copy.task)
        assert original.statistic == copy.statistic
        given = (copy.original_mean, copy.original_std)
        value = given if copy.miscopied else (copy.mean, copy.std)
        assert value == (original.mean, original.std), copy
        assert copy.miscopied == ((copy.mean, copy.std) != value), copy


def test_the_wrong_copies_are_marked():
    found = Counter()
    for x in numbers():
        if x.miscopied:
            values = (x.mean, x.std, x.original_mean, x.original_std)
            assert MISCOPIED[x.printed, x.task] == values
            found[x.printed, x.task] += 1
    assert found == dict.fromkeys(MISCOPIED, 4)


@pytest.mark.parametrize(
    ("source", "printed", "task", "mean", "std", "steps", "seeds", "statistic"),
    [
        ("MBBL 200K", "TD3", "mbbl/Walker2D-ET", 3299.7, 1951.5, 200_000, 4, "end"),
        ("Diff-SR Table 1", "Diff-SR", "mbbl/HalfCheetah", 7223.53, 437.1, 200_000, 4, "last4"),
        ("LV-Rep Table 1", "LV-Rep-D", "mbbl/Ant-ET", 2436.0, 603.1, 200_000, 4, "end"),
        ("CGPO Table 1", "QVPO", "gym/Ant-v5", 6425.1, 67.6, 1_000_000, 5, "best"),
        ("CGPO Table 1", "DIPO", "gym/Walker2d-v5", 4917.1, 181.9, 1_000_000, 5, "best"),
        ("tianshou", "SAC", "gym/HalfCheetah-v5", 12138.8, 1049.3, 1_000_000, 10, "best_mean"),
        ("AD-RRL Table 1", "PolyGRAD", "gym/Hopper-v5", 3346.99, 52.39, 1_500_000, 5, "unstated"),
    ],
)
def test_values_as_printed(source, printed, task, mean, std, steps, seeds, statistic):
    number = find(source, printed, task)
    found = (number.mean, number.std, number.steps, number.seeds, number.statistic)
    assert found == (mean, std, steps, seeds, statistic)


def test_gym_results_name_their_version():
    assert find("CGPO Table 1", "QVPO", "gym/Ant-v5").environment == "MuJoCo v3"
    assert find("FMER", "QVPO", "gym/Humanoid-v5").environment == "MuJoCo v5"


def test_deviation_over_seeds():
    number = find("AD-RRL Table 1", "PolyGRAD", "gym/Hopper-v5")
    assert number.deviation == pytest.approx(52.39 * 5**0.5)
    assert replace(number, seeds=None).deviation is None
    assert find("CGPO Table 1", "QVPO", "gym/Ant-v5").deviation == 67.6
    assert find("SB3 zoo", "SAC", "gym/Ant-v5").deviation is None
    assert find("FMER", "SAC", "gym/Humanoid-v5").deviation is None


def test_scores_are_normalised_by_the_same_numbers():
    constants = normalisation().filter(like="mbbl/", axis="index")
    assert len(constants) == 18
    for task, row in constants.iterrows():
        assert row["random"] == find("MBBL 200K", "Random", task).mean
        assert row["reference"] == find("MBBL 200K", "SAC", task).mean


def test_scores_have_the_measure_and_the_bounds_of_their_suite():
    for suite, scale in {
        "dmc": ("return", 0.0, 1000.0),
        "metaworld": ("success", 0.0, 1.0),
    }.items():
        for task in list_tasks(suite):
            found = published.scale(task)
            bounded = not task.startswith("dmc/lqr-")
            assert (found is not None) == bounded, task
            if found:
                assert (found.measure, found.random, found.reference) == scale
                assert (found.measure == "success") == task_facts(task).reports_success
    known = set(normalisation().index)
    assert known <= set(list_tasks())
    assert published.scale("dmc/cheetah-run@pixels+size=64") == published.scale("dmc/cheetah-run")
