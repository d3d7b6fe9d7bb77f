"""The value that each run contributes to a table, or why it contributes none."""

import numpy as np
import pandas as pd

from analysis.load import Experiment
from analysis.published import normalisation
from analysis.stats import RUN_STATISTICS, Array, normalised


def run_values(experiment: Experiment, statistic: str) -> pd.DataFrame:
    """Evaluates a statistic of every run.

    Args:
        experiment: The runs.
        statistic: A name in `stats.RUN_STATISTICS`.

    Returns:
        One row per run: task, label, seed, value (in the task's reward units) and mark. The mark
        says why the run does not count, such as `failed`; it is empty for a run that counts.
    """
    groups = experiment.curves().groupby(["task", "label", "seed"])["return"]
    curves = {key: returns.to_numpy() for key, returns in groups}
    runs = experiment.runs[["task", "label", "seed", "status"]]
    values, marks = [], []
    for task, label, seed, status in runs.itertuples(index=False, name=None):
        returns = curves.get((task, label, seed), np.empty(0))
        value = RUN_STATISTICS[statistic](returns)
        values.append(value)
        marks.append(_mark(status, returns, statistic, value))
    return runs.drop(columns="status").assign(value=values, mark=marks)


def scores(values: pd.DataFrame, label: str) -> dict[str, Array]:
    """Normalises the runs of a method that count, on the tasks that have constants for it.

    Args:
        values: What `run_values` returned.
        label: The method.

    Returns:
        For each task, its scores [runs]; tasks without a run that counts are left out.
    """
    constants = normalisation()[["random", "reference"]].astype(float).T.to_dict("list")
    counted = values[(values["label"] == label) & (values["mark"] == "")]
    return {
        str(task): normalised(runs.to_numpy(), *constants[task])
        for task, runs in counted.groupby("task")["value"]
        if task in constants
    }


def _mark(status: str, returns: Array, statistic: str, value: float) -> str:
    if status != "done":
        return status
    if len(returns) == 0:
        return "without evaluations"
    if statistic == "last4" and len(returns) < 4:
        return "with too few evaluations"
    return "" if np.isfinite(value) else "not finite"
