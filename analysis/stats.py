"""Statistics of runs and of sets of runs, by rliable's definitions.

Two levels: a *statistic of a run* turns the evaluations of one run into the value that a table
reports; an *aggregate* turns the normalised values of many runs on many tasks into one number.
Definitions of the aggregates: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (arXiv 2108.13264), and its library rliable.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Aggregate = Callable[[Sequence[Array]], Array]


def last(returns: Array) -> float:
    """The last evaluation of a run; `returns` is [evaluations]; NaN if there is none."""
    return float(returns[-1]) if len(returns) else float("nan")


def last4(returns: Array) -> float:
    """The mean of the last four evaluations; `returns` is [evaluations]; NaN if fewer than four."""
    return float(np.mean(returns[-4:])) if len(returns) >= 4 else float("nan")


def best(returns: Array) -> float:
    """The best evaluation of a run; `returns` is [evaluations]; NaN if there is none."""
    return float(np.max(returns)) if len(returns) else float("nan")


RUN_STATISTICS: Mapping[str, Callable[[Array], float]] = {
    "last": last,
    "last4": last4,
    "best": best,
}
"""The names a protocol's `reported` field may hold."""

DESCRIPTIONS: Mapping[str, str] = {
    "last": "last evaluation",
    "last4": "mean of the last four evaluations",
    "best": "best evaluation during training",
}


def normalised(value: Array, random: float, reference: float) -> Array:
    """Returns (value - random) / (reference - random): 0 for random play, 1 for the reference."""
    return (value - random) / (reference - random)


def mean(scores: Sequence[Array]) -> Array:
    """Mean over tasks of the mean over runs; one array [..., runs] per task, result [...]."""
    return _task_means(scores).mean(axis=-1)


def median(scores: Sequence[Array]) -> Array:
    """Median over tasks of the mean over runs; one array [..., runs] per task, result [...]."""
    return np.median(_task_means(scores), axis=-1)


def iqm(scores: Sequence[Array]) -> Array:
    """Interquartile mean: the mean of the middle half of all runs of all tasks together.

    As in rliable, floor(N/4) of the N pooled runs are cut at each end, so a task with more runs
    weighs more. One array [..., runs] per task, result [...].
    """
    pooled = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    count = pooled.shape[-1]
    cut = int(0.25 * count)
    return pooled[..., cut : count - cut].mean(axis=-1)


def optimality_gap(scores: Sequence[Array]) -> Array:
    """How far the pooled runs fall short of a score of 1, on average; lower is better.

    Scores above 1 count as 1. One array [..., runs] per task, result [...].
    """
    return 1.0 - np.minimum(np.concatenate(scores, axis=-1), 1.0).mean(axis=-1)


AGGREGATES: Mapping[str, Aggregate] = {
    "IQM": iqm,
    "Median": median,
    "Mean": mean,
    "Optimality gap": optimality_gap,
}


@dataclass(frozen=True)
class Estimate:
    """An aggregate and its confidence interval [low, high]."""

    point: float
    low: float
    high: float


def bootstrap(
    scores: Sequence[Array],
    aggregates: Mapping[str, Aggregate] = AGGREGATES,
    *,
    reps: int = 50_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """Estimates aggregates with stratified percentile-bootstrap intervals.

    The runs of each task are resampled with replacement, independently of the other tasks, so the
    tasks may have different numbers of runs. rliable does the same in a Python loop, from numpy's
    global generator and for equal numbers only.

    Args:
        scores: Normalised scores, one array [runs] per task, none of them empty.
        aggregates: Named functions from the list of arrays [..., runs] to an array [...].
        reps: Number of resamples.
        seed: Seed of the resampling; equal seeds give equal intervals.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        For each name, the aggregate of `scores` and its interval.

    Raises:
        ValueError: There is no task, or a task has no run.
    """
    if not scores or any(len(runs) == 0 for runs in scores):
        raise ValueError("bootstrap needs at least one task, and at least one run of each task")
    generator = np.random.default_rng(seed)
    resampled = [runs[generator.integers(len(runs), size=(reps, len(runs)))] for runs in scores]
    tail = 50.0 * (1.0 - confidence)
    estimates = {}
    for name, aggregate in aggregates.items():
        low, high = np.percentile(aggregate(resampled), [tail, 100.0 - tail])
        estimates[name] = Estimate(float(aggregate(scores)), float(low), float(high))
    return estimates


def _task_means(scores: Sequence[Array]) -> Array:
    """Stacks the mean over runs of each task: [..., tasks]."""
    return np.stack([runs.mean(axis=-1) for runs in scores], axis=-1)
