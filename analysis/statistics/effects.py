"""How large a difference between two methods is, as a ratio."""

import numpy as np

from analysis.statistics.stats import Array, Estimate, difference


def ratio(x: Array, y: Array, *, paired: bool) -> Estimate | None:
    """Estimates the ratio of two geometric means, with the interval of the logarithms' difference.

    Args:
        x: Values of one method [runs].
        y: Values of another [runs].
        paired: As in `stats.difference`.

    Returns:
        The ratio x to y; None if a value is not positive.
    """
    logs = logarithms(x, y)
    if logs is None:
        return None
    found = difference(*logs, paired=paired)
    with np.errstate(over="ignore"):
        point, low, high = np.exp([found.point, found.low, found.high])
    return Estimate(float(point), float(low), float(high))


def logarithms(x: Array, y: Array) -> tuple[Array, Array] | None:
    """The logarithms of both samples; None if a value is not positive."""
    return (np.log(x), np.log(y)) if min(x.min(), y.min()) > 0 else None
