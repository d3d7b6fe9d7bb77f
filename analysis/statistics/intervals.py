"""Confidence intervals of aggregates: the bootstrap, stratified by task.

Scores of several tasks are a list with one array [runs] for each task.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.aggregates import (
    AGGREGATES,
    Aggregate,
    check_tasks,
    exceedances,
    pairwise_wins,
    probability_of_improvement,
)
from analysis.statistics.types import Array

BLOCK = 500
"""Resamples that are worked on at once, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class Estimate:
    """A value and its confidence interval [low, high]."""

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
    """Estimate aggregates with stratified percentile-bootstrap intervals.

    The runs of each task are resampled with replacement, independently of the other tasks, so the
    tasks may have different numbers of runs. rliable does the same in a Python loop, from numpy's
    global generator and for equal numbers only.

    Args:
        scores: normalised scores, one array [runs] per task, none of them empty.
        aggregates: what to estimate, by name.
        reps: number of resamples.
        seed: seed of the resampling; equal seeds give equal intervals.
        confidence: coverage of the interval, in (0, 1).

    Returns:
        For each name, the aggregate of `scores` and its interval.

    Raises:
        ValueError: there is no task, or a task has no run.
    """
    tail = 50.0 * (1.0 - confidence)
    blocks = [
        [aggregate.function(block) for aggregate in aggregates.values()]
        for block in _resampled(scores, reps, seed)
    ]
    estimates = {}
    for position, (name, aggregate) in enumerate(aggregates.items()):
        resampled = np.concatenate([block[position] for block in blocks])
        low, high = np.percentile(resampled, [tail, 100.0 - tail])
        estimates[name] = Estimate(float(aggregate.function(scores)), float(low), float(high))
    return estimates


def performance_profile_band(
    scores: Sequence[Array],
    thresholds: Array,
    *,
    reps: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Array, Array]:
    """Return the pointwise stratified bootstrap interval of `performance_profile`.

    Args:
        scores: normalised scores, one array [runs] per task, none of them empty.
        thresholds: scores [thresholds].
        reps: number of resamples.
        seed: seed of the resampling.
        confidence: coverage at each threshold, in (0, 1).

    Returns:
        The low and the high ends, [thresholds] each.

    Raises:
        ValueError: there is no task, or a task has no run.
    """
    weights = _weights(scores, reps, np.random.default_rng(seed))
    above = exceedances(scores, thresholds)
    profiles = sum(weight @ runs for weight, runs in zip(weights, above, strict=True))
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(profiles / len(scores), [tail, 100.0 - tail], axis=0)
    return low, high


def probability_of_improvement_estimate(
    x: Sequence[Array],
    y: Sequence[Array],
    *,
    reps: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate `probability_of_improvement`, resampling the runs of X and of Y independently.

    Args:
        x: scores of X, one array [runs of X] per task.
        y: scores of Y on the same tasks in the same order, one array [runs of Y] per task.
        reps: number of resamples.
        seed: seed of the resampling.
        confidence: coverage of the interval, in (0, 1).

    Raises:
        ValueError: the numbers of tasks differ, there is no task, or a task has no run.
    """
    generator = np.random.default_rng(seed)
    wins = pairwise_wins(x, y)
    pairs = zip(_weights(x, reps, generator), wins, _weights(y, reps, generator), strict=True)
    resampled = np.mean([((of_x @ won) * of_y).sum(axis=-1) for of_x, won, of_y in pairs], axis=0)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(resampled, [tail, 100.0 - tail])
    return Estimate(probability_of_improvement(x, y), float(low), float(high))


def _resampled(scores: Sequence[Array], reps: int, seed: int) -> Iterator[list[Array]]:
    """Draw the runs of each task with replacement: blocks of one array [block, runs] per task."""
    check_tasks(scores)
    generator = np.random.default_rng(seed)
    starts = range(0, reps, BLOCK)
    # All draws of the first task come first, then those of the second; small numbers take a
    # fraction of the memory of the scores that they stand for.
    draws = [
        [
            generator.integers(len(runs), size=(min(BLOCK, reps - start), len(runs))).astype(
                np.min_scalar_type(len(runs))
            )
            for start in starts
        ]
        for runs in scores
    ]
    for block in zip(*draws, strict=True):
        yield [runs[drawn] for runs, drawn in zip(scores, block, strict=True)]


def _weights(scores: Sequence[Array], reps: int, generator: np.random.Generator) -> list[Array]:
    """Return how often each run is drawn, as a share of its task's draws: [reps, runs] per task."""
    check_tasks(scores)
    counts = [len(runs) for runs in scores]
    return [generator.multinomial(n, np.full(n, 1 / n), size=reps) / n for n in counts]
