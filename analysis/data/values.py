"""The value that each run contributes to a table, or why it contributes none."""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import pandas as pd

from analysis.data.experiment import Experiment, Measure
from analysis.statistics.run_statistics import RUN_STATISTICS, area_under_curve, steps_to
from analysis.statistics.types import Array


def run_values(experiment: Experiment, statistic: str, measure: Measure = "return") -> pd.DataFrame:
    """Evaluate a statistic of every run.

    Args:
        experiment: the runs.
        statistic: a name in `RUN_STATISTICS`.
        measure: what an evaluation measures, as in `Experiment.curves`.

    Returns:
        One row per run: task, label, seed, value (in the task's reward units, or a success rate in
        [0, 1]) and mark. The mark says why the run does not count, such as `failed`; it is empty
        for a run that counts.
    """
    chosen = RUN_STATISTICS[statistic]
    return _evaluate(
        experiment, measure, lambda _, __, results: chosen.function(results), fewest=chosen.fewest
    )


def areas(experiment: Experiment, measure: Measure = "return") -> pd.DataFrame:
    """Evaluate `area_under_curve` of every run.

    Args:
        experiment: the runs.
        measure: what an evaluation measures, as in `Experiment.curves`.

    Returns:
        One row per run, as of `run_values`.
    """
    return _evaluate(
        experiment, measure, lambda _, steps, results: area_under_curve(steps, results)
    )


def steps_to_thresholds(
    experiment: Experiment, thresholds: Mapping[str, float], measure: Measure = "return"
) -> pd.DataFrame:
    """Evaluate `steps_to` of every run on the tasks with a threshold.

    Args:
        experiment: the runs.
        thresholds: for each task the result to reach, in the unit of the measure.
        measure: what an evaluation measures, as in `Experiment.curves`.

    Returns:
        One row per run, as of `run_values`, the value in environment steps. A run that does not
        reach the threshold has an infinite value and the mark `not reached`.
    """
    return _evaluate(
        experiment,
        measure,
        lambda task, steps, results: steps_to(steps, results, thresholds[task]),
        tasks=list(thresholds),
    )


def paired(values: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Set the runs of two methods side by side that share task and seed.

    A seed index gives the same evaluation episodes to every method, so what is lucky for one is
    lucky for both, and their differences vary less than their values.

    Args:
        values: one row per run, as of `run_values`.
        first: label of one method.
        second: label of the other.

    Returns:
        One row per task and seed on which both count: task, seed, first and second, sorted.
    """
    counted = values[values["mark"] == ""].set_index(["task", "seed", "label"])["value"]
    sides = counted.unstack("label").reindex(columns=[first, second]).dropna()
    return sides.set_axis(["first", "second"], axis="columns").reset_index()


def _evaluate(
    experiment: Experiment,
    measure: Measure,
    function: Callable[[str, Array, Array], float],
    *,
    fewest: int = 1,
    tasks: Collection[str] | None = None,
) -> pd.DataFrame:
    """Evaluate a function of the task, the steps and the results of every run.

    A run with fewer than `fewest` evaluations gets a mark. Runs on other tasks than `tasks`, if
    given, are left out.
    """
    curves = experiment.run_curves(measure)
    nothing = np.empty(0), np.empty(0)
    runs = experiment.runs[["task", "label", "seed", "status"]]
    if tasks is not None:
        runs = runs[runs["task"].isin(tasks)].reset_index(drop=True)
    values, marks = [], []
    for task, label, seed, status in runs.itertuples(index=False, name=None):
        steps, results = curves.get((task, label, seed), nothing)
        value = function(task, steps, results)
        values.append(value)
        marks.append(_mark(status, len(results), fewest) or _lack(value, measure))
    return runs.drop(columns="status").assign(value=values, mark=marks)


def _mark(status: str, evaluations: int, fewest: int) -> str:
    if status != "done":
        return status
    if evaluations == 0:
        return "without evaluations"
    return "with too few evaluations" if evaluations < fewest else ""


def _lack(value: float, measure: Measure) -> str:
    if np.isposinf(value):
        return "not reached"
    # A rate is a mean of zeros and ones, so what is not finite was not reported.
    lack = "not finite" if measure == "return" else "without success rate"
    return "" if np.isfinite(value) else lack
