"""What the normalised scores of many runs on many tasks say in one number.

Definitions of the aggregates, of performance profiles and of the probability of improvement:
Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv
2108.13264), and its library rliable. Scores of several tasks are a list with one array [runs] for
each task.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.types import Array, Better


@dataclass(frozen=True)
class Aggregate:
    """A number that stands for the scores of many runs on many tasks.

    Attributes:
        name: what tables and figures call it.
        function: computes it [...] from the scores, one array [..., runs] per task.
        better: whether a higher or a lower one is better.
    """

    name: str
    function: Callable[[Sequence[Array]], Array]
    better: Better


def normalised(value: Array, random: float, reference: float) -> Array:
    """Return (value - random) / (reference - random): 0 for random play, 1 for the reference."""
    return (value - random) / (reference - random)


def mean(scores: Sequence[Array]) -> Array:
    """Return the mean over tasks of the mean over runs; [..., runs] per task gives [...]."""
    return _task_means(scores).mean(axis=-1)


def median(scores: Sequence[Array]) -> Array:
    """Return the median over tasks of the mean over runs; [..., runs] per task gives [...]."""
    return np.median(_task_means(scores), axis=-1)


def iqm(scores: Sequence[Array]) -> Array:
    """Return the interquartile mean: the mean of the middle half of all runs of all tasks together.

    As in rliable, floor(N/4) of the N pooled runs are cut at each end, so a task with more runs
    weighs more. One array [..., runs] per task, result [...].
    """
    pooled = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    count = pooled.shape[-1]
    cut = int(0.25 * count)
    return pooled[..., cut : count - cut].mean(axis=-1)


def optimality_gap(scores: Sequence[Array]) -> Array:
    """Return how far the pooled runs fall short of a score of 1, on average; lower is better.

    Scores above 1 count as 1. One array [..., runs] per task, result [...].
    """
    return 1.0 - np.minimum(np.concatenate(scores, axis=-1), 1.0).mean(axis=-1)


AGGREGATES: Mapping[str, Aggregate] = {
    aggregate.name: aggregate
    for aggregate in (
        Aggregate("IQM", iqm, "higher"),
        Aggregate("Median", median, "higher"),
        Aggregate("Mean", mean, "higher"),
        Aggregate("Optimality gap", optimality_gap, "lower"),
    )
}


def performance_profile(scores: Sequence[Array], thresholds: Array) -> Array:
    """Return the fraction of runs that score above each threshold, averaged over tasks.

    Args:
        scores: normalised scores, one array [runs] per task, none of them empty.
        thresholds: scores [thresholds].

    Returns:
        Fractions in [0, 1], [thresholds].
    """
    return np.mean([above.mean(axis=0) for above in exceedances(scores, thresholds)], axis=0)


def probability_of_improvement(x: Sequence[Array], y: Sequence[Array]) -> float:
    """Return how likely a run of X beats a run of Y on the same task, averaged over tasks.

    A tie counts half, as in the Mann-Whitney statistic.

    Args:
        x: scores of X, one array [runs of X] per task.
        y: scores of Y on the same tasks in the same order, one array [runs of Y] per task.

    Raises:
        ValueError: the numbers of tasks differ, there is no task, or a task has no run.
    """
    return float(np.mean([wins.mean() for wins in pairwise_wins(x, y)]))


def exceedances(scores: Sequence[Array], thresholds: Array) -> list[Array]:
    """Return whether each run scores above each threshold: 0 or 1, [runs, thresholds] per task."""
    return [(runs[:, None] > thresholds).astype(float) for runs in scores]


def pairwise_wins(x: Sequence[Array], y: Sequence[Array]) -> list[Array]:
    """Return whether each run of X beats each of Y: 0, 0.5 (a tie) or 1.

    One array [runs of X, runs of Y] per task.

    Raises:
        ValueError: the numbers of tasks differ, there is no task, or a task has no run.
    """
    if len(x) != len(y):
        raise ValueError(f"both methods need the same tasks; found {len(x)} and {len(y)}")
    check_tasks(x)
    check_tasks(y)
    return [(np.sign(of_x[:, None] - of_y) + 1) / 2 for of_x, of_y in zip(x, y, strict=True)]


def check_tasks(scores: Sequence[Array]) -> None:
    """Refuse scores that hold no task, or a task without a run, with `ValueError`."""
    if not scores or any(len(runs) == 0 for runs in scores):
        raise ValueError("bootstrap needs at least one task, and at least one run of each task")


def _task_means(scores: Sequence[Array]) -> Array:
    """Stack the mean over runs of each task: [..., tasks]."""
    return np.stack([runs.mean(axis=-1) for runs in scores], axis=-1)
