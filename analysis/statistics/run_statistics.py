"""What the evaluations of one run say in one number: the value that a table reports of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from analysis.statistics.types import Array


@dataclass(frozen=True)
class RunStatistic:
    """A value of a run.

    Attributes:
        name: what protocols and published.csv call it.
        function: computes it from the results of the evaluations [evaluations], in order.
        fewest: evaluations that it takes.
        text: what it is, for people.
        at_the_end: whether it is one that a paper's "end of training" may mean.
    """

    name: str
    function: Callable[[Array], float]
    fewest: int
    text: str
    at_the_end: bool


def last(returns: Array) -> float:
    """Return the last evaluation of a run [evaluations], NaN if there is none."""
    return float(returns[-1]) if len(returns) else float("nan")


def last4(returns: Array) -> float:
    """Return the mean of the last four evaluations [evaluations], NaN if fewer than four."""
    return float(np.mean(returns[-4:])) if len(returns) >= 4 else float("nan")


def best(returns: Array) -> float:
    """Return the best evaluation of a run [evaluations], NaN if there is none."""
    return float(np.max(returns)) if len(returns) else float("nan")


RUN_STATISTICS: Mapping[str, RunStatistic] = {
    statistic.name: statistic
    for statistic in (
        RunStatistic("last", last, 1, "last evaluation", at_the_end=True),
        RunStatistic("last4", last4, 4, "mean of the last four evaluations", at_the_end=True),
        RunStatistic("best", best, 1, "best evaluation during training", at_the_end=False),
    )
}
"""The names a protocol's `reported` field may hold."""


def area_under_curve(steps: Array, returns: Array) -> float:
    """Return the area under a run's learning curve, divided by the steps that it spans.

    This is the mean of the curve that joins the evaluations by straight lines, so it is in the unit
    of the returns, and runs of different length compare.

    Args:
        steps: environment steps of the evaluations [evaluations], increasing.
        returns: their results [evaluations].

    Returns:
        The area; the result itself for one evaluation, NaN for none.
    """
    if len(returns) < 2:
        return last(returns)
    return float(np.trapezoid(returns, steps) / (steps[-1] - steps[0]))


def steps_to(steps: Array, returns: Array, threshold: float) -> float:
    """Return the environment steps after which an evaluation first reaches a threshold.

    Args:
        steps: environment steps of the evaluations [evaluations], increasing.
        returns: their results [evaluations].
        threshold: the result to reach, in the same unit.

    Returns:
        The steps; infinity if no evaluation reaches the threshold, so that a median over runs
        counts such a run as slower than all others; NaN without a result that is a number.
    """
    if np.isnan(returns).all():
        return float("nan")
    reached = returns >= threshold
    return float(steps[np.argmax(reached)]) if reached.any() else float("inf")
