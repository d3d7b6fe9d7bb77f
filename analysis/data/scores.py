"""Normalised scores of the runs of an experiment, and their aggregates over tasks."""

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.data.experiment import MEASURES, Experiment
from analysis.data.published import scale
from analysis.data.values import run_values
from analysis.statistics.aggregates import normalised
from analysis.statistics.intervals import Estimate, bootstrap
from analysis.statistics.types import Array


@dataclass(frozen=True)
class Scores:
    """The normalised scores of all methods on one set of tasks, and their aggregates.

    Attributes:
        tasks: the tasks aggregated.
        left_out: tasks without normalisation constants.
        by_task: for each method label and each task with a finished run, the scores [runs].
        estimates: for each label that has a finished run on all `tasks`, its aggregates.
    """

    tasks: list[str]
    left_out: list[str]
    by_task: Mapping[str, Mapping[str, Array]]
    estimates: Mapping[str, Mapping[str, Estimate]]

    def seeds(self, *labels: str) -> str:
        """Return the seeds per task of some methods, a range such as "2–4" if they differ."""
        counts = [len(self.by_task[label].get(task, ())) for label in labels for task in self.tasks]
        low, high = min(counts, default=0), max(counts, default=0)
        return f"{low}" if low == high else f"{low}–{high}"

    def single(self, label: str) -> bool:
        """Return whether the method has one seed on every task, so that there is no interval."""
        return self.seeds(label) == "1"

    def lack(self, label: str) -> str:
        """Return why a method has no estimates."""
        if not self.tasks:
            return "no normalised task has a finished run"
        return f"finished on {len(self.by_task[label])} of {len(self.tasks)} tasks"


def normalised_scores(experiment: Experiment) -> Scores:
    """Normalise and aggregate the protocol's primary statistic of all finished runs."""
    by_label = scores_by_task(experiment, experiment.protocol.reported[0])
    covered = set().union(*by_label.values())
    tasks = [task for task in experiment.tasks if task in covered]
    estimates = {
        label: bootstrap([by_task[task] for task in tasks])
        for label, by_task in by_label.items()
        if tasks and len(by_task) == len(tasks)
    }
    left_out = [task for task in experiment.tasks if scale(task) is None]
    return Scores(tasks, left_out, by_label, estimates)


def scores_by_task(experiment: Experiment, statistic: str) -> dict[str, dict[str, Array]]:
    """Normalise the runs that count, on the tasks that have constants for it.

    Args:
        experiment: the runs.
        statistic: a name in `RUN_STATISTICS`.

    Returns:
        For each label and each task, the scores [runs]; tasks on which no run of the label counts
        are left out.
    """
    found: dict[str, dict[str, Array]] = {label: {} for label in experiment.labels}
    values = {measure: run_values(experiment, statistic, measure) for measure in MEASURES}
    for task in experiment.tasks:
        constants = scale(task)
        if constants is None:
            continue
        runs = values[constants.measure].query("task == @task and mark == ''")
        for label, group in runs.groupby("label")["value"]:
            score = normalised(group.to_numpy(), constants.random, constants.reference)
            found[str(label)][task] = score
    return found
