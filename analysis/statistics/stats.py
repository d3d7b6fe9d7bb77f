"""Statistics of runs and of sets of runs, by rliable's definitions.

Three levels: a *statistic of a run* turns the evaluations of one run into the value that a table
reports; an *aggregate* turns the normalised values of many runs on many tasks into one number; a
*comparison* sets the runs of one method against those of another. Definitions of the aggregates,
of performance profiles and of the probability of improvement: Agarwal et al. 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264), and its library
rliable. Scores of several tasks are a list with one array [runs] for each task.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Array = NDArray[np.float64]
Aggregate = Callable[[Sequence[Array]], Array]

BLOCK = 500
"""Resamples that are worked on at once, so that they stay in the processor's cache."""

EXACT_PAIRS = 16
"""Up to this many pairs `paired_test` goes through all sign patterns."""


def last(returns: Array) -> float:
    """The last evaluation of a run; `returns` is [evaluations]; NaN if there is none."""
    return float(returns[-1]) if len(returns) else float("nan")


def last4(returns: Array) -> float:
    """The mean of the last four evaluations; `returns` is [evaluations]; NaN if fewer than four."""
    return float(np.mean(returns[-4:])) if len(returns) >= 4 else float("nan")


def best(returns: Array) -> float:
    """The best evaluation of a run; `returns` is [evaluations]; NaN if there is none."""
    return float(np.max(returns)) if len(returns) else float("nan")


def area_under_curve(steps: Array, returns: Array) -> float:
    """The area under a run's learning curve, divided by the steps that it spans.

    This is the mean of the curve that joins the evaluations by straight lines, so it is in the unit
    of the returns, and runs of different length compare.

    Args:
        steps: Environment steps of the evaluations [evaluations], increasing.
        returns: Their results [evaluations].

    Returns:
        The area; the result itself for one evaluation, NaN for none.
    """
    if len(returns) < 2:
        return last(returns)
    return float(np.trapezoid(returns, steps) / (steps[-1] - steps[0]))


def steps_to(steps: Array, returns: Array, threshold: float) -> float:
    """The environment steps after which an evaluation first reaches a threshold.

    Args:
        steps: Environment steps of the evaluations [evaluations], increasing.
        returns: Their results [evaluations].
        threshold: The result to reach, in the same unit.

    Returns:
        The steps; infinity if no evaluation reaches the threshold, so that a median over runs
        counts such a run as slower than all others; NaN without a result that is a number.
    """
    if np.isnan(returns).all():
        return float("nan")
    reached = returns >= threshold
    return float(steps[np.argmax(reached)]) if reached.any() else float("inf")


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
    tail = 50.0 * (1.0 - confidence)
    blocks = [
        [aggregate(block) for aggregate in aggregates.values()]
        for block in _resampled(scores, reps, seed)
    ]
    estimates = {}
    for position, (name, aggregate) in enumerate(aggregates.items()):
        resampled = np.concatenate([block[position] for block in blocks])
        low, high = np.percentile(resampled, [tail, 100.0 - tail])
        estimates[name] = Estimate(float(aggregate(scores)), float(low), float(high))
    return estimates


def performance_profile(scores: Sequence[Array], thresholds: Array) -> Array:
    """The fraction of runs that score above each threshold, averaged over tasks.

    Args:
        scores: Normalised scores, one array [runs] per task, none of them empty.
        thresholds: Scores [thresholds].

    Returns:
        Fractions in [0, 1], [thresholds].
    """
    return np.mean([above.mean(axis=0) for above in _above(scores, thresholds)], axis=0)


def performance_profile_band(
    scores: Sequence[Array],
    thresholds: Array,
    *,
    reps: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Array, Array]:
    """The pointwise stratified bootstrap interval of `performance_profile`.

    Args:
        scores: Normalised scores, one array [runs] per task, none of them empty.
        thresholds: Scores [thresholds].
        reps: Number of resamples.
        seed: Seed of the resampling.
        confidence: Coverage at each threshold, in (0, 1).

    Returns:
        The low and the high ends, [thresholds] each.

    Raises:
        ValueError: There is no task, or a task has no run.
    """
    weights = _weights(scores, reps, np.random.default_rng(seed))
    above = _above(scores, thresholds)
    profiles = sum(weight @ runs for weight, runs in zip(weights, above, strict=True))
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(profiles / len(scores), [tail, 100.0 - tail], axis=0)
    return low, high


def probability_of_improvement(x: Sequence[Array], y: Sequence[Array]) -> float:
    """The probability that a run of X beats a run of Y on the same task, averaged over tasks.

    A tie counts half, as in the Mann-Whitney statistic.

    Args:
        x: Scores of X, one array [runs of X] per task.
        y: Scores of Y on the same tasks in the same order, one array [runs of Y] per task.

    Raises:
        ValueError: The numbers of tasks differ, there is no task, or a task has no run.
    """
    return float(np.mean([wins.mean() for wins in _wins(x, y)]))


def probability_of_improvement_estimate(
    x: Sequence[Array],
    y: Sequence[Array],
    *,
    reps: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Estimates `probability_of_improvement`, resampling the runs of X and of Y independently.

    Args:
        x: Scores of X, one array [runs of X] per task.
        y: Scores of Y on the same tasks in the same order, one array [runs of Y] per task.
        reps: Number of resamples.
        seed: Seed of the resampling.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: The numbers of tasks differ, there is no task, or a task has no run.
    """
    generator = np.random.default_rng(seed)
    wins = _wins(x, y)
    pairs = zip(_weights(x, reps, generator), wins, _weights(y, reps, generator), strict=True)
    resampled = np.mean([((of_x @ won) * of_y).sum(axis=-1) for of_x, won, of_y in pairs], axis=0)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(resampled, [tail, 100.0 - tail])
    return Estimate(probability_of_improvement(x, y), float(low), float(high))


def difference(x: Array, y: Array, *, paired: bool = False, confidence: float = 0.95) -> Estimate:
    """Estimates mean(x) - mean(y) with Student's interval, or with Welch's for unpaired runs.

    Not a bootstrap: of five normal runs each, its 95 % percentile interval holds the true
    difference 85 to 87 times in 100, of three 75 to 79 times, and Student's and Welch's at least 95
    times, also of runs that either fail or succeed.

    Args:
        x: Values of one method [runs].
        y: Values of another [runs].
        paired: Whether x[i] and y[i] share environment and seed, so that their common luck cancels.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        The difference; its interval is infinite if the spread cannot be known, for want of a second
        run (or pair).

    Raises:
        ValueError: A side has no run, or the numbers of paired runs differ.
    """
    point, error, freedom = _standard_error(x, y, paired=paired)
    if not freedom:
        return Estimate(point, -np.inf, np.inf)
    reach = float(student.ppf(0.5 + confidence / 2, freedom)) * error
    return Estimate(point, point - reach, point + reach)


def paired_test(x: Array, y: Array, *, reps: int = 100_000, seed: int = 0) -> float:
    """The p-value of a two-sided sign-flip permutation test of equal means.

    If the two methods were equal, exchanging them within a pair would change nothing; the p-value
    is the share of exchanges that give a mean difference at least as large as the one found. It
    cannot be below 2 / 2^pairs: with four pairs 0.125, with six 0.031.

    Args:
        x: Values of one method [pairs].
        y: Values of another with the same environments and seeds [pairs].
        reps: Number of random exchanges where there are too many pairs to go through all.
        seed: Seed of the random exchanges.

    Raises:
        ValueError: There is no pair, or the numbers of runs differ.
    """
    differences = _paired(x, y)
    pairs = len(differences)
    if pairs <= EXACT_PAIRS:
        bits = np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1
        found = 0
    else:
        bits = np.random.default_rng(seed).integers(2, size=(reps, pairs), dtype=np.int8)
        # The exchange that was found is one of those that are possible (Phipson and Smyth 2010).
        found = 1
    sums = np.abs((1 - 2 * bits) @ differences)
    # Sums of the same numbers in another order differ in their last digits.
    extreme = sums >= abs(differences.sum()) - 1e-9 * np.abs(differences).sum()
    return float((extreme.sum() + found) / (len(sums) + found))


def seeds_needed(
    x: Array,
    y: Array,
    *,
    threshold: float = 0.0,
    paired: bool = False,
    confidence: float = 0.95,
    limit: int = 1000,
) -> int | None:
    """How many more runs of each would decide on which side of a threshold the difference lies.

    Args:
        x: Values of one method [runs].
        y: Values of another [runs].
        threshold: The difference that a claim asks for.
        paired: As in `difference`.
        confidence: Coverage of the interval, in (0, 1).
        limit: The largest number to look at.

    Returns:
        The smallest number with which the interval of `difference` leaves out the threshold, if
        mean and spread stay as they are: 0 if it does so now; None if `limit` is not enough, or if
        there are too few runs to know the spread.

    Raises:
        ValueError: A side has no run, or the numbers of paired runs differ.
    """
    for more in range(limit + 1):
        point, error, freedom = _standard_error(x, y, paired=paired, more=more)
        if not freedom:
            return None
        if abs(point - threshold) > float(student.ppf(0.5 + confidence / 2, freedom)) * error:
            return more
    return None


def _standard_error(
    x: Array, y: Array, *, paired: bool, more: int = 0
) -> tuple[float, float, float]:
    """The mean difference, its standard error and degrees of freedom (0 if that is not known).

    The last two are those that `more` runs of the same spread would give.
    """
    if paired:
        samples = [_paired(x, y)]
        point = float(samples[0].mean())
    else:
        samples = [_filled(x), _filled(y)]
        point = float(x.mean() - y.mean())
    if any(len(sample) < 2 for sample in samples):
        return point, np.inf, 0.0
    counts = np.array([len(sample) + more for sample in samples])
    squares = np.array([sample.var(ddof=1) for sample in samples]) / counts
    error = squares.sum()
    # Welch and Satterthwaite; for one sample its number minus one. Equal runs have no spread.
    freedom = error**2 / (squares**2 / (counts - 1)).sum() if error else counts.min() - 1
    return point, float(np.sqrt(error)), float(freedom)


def _paired(x: Array, y: Array) -> Array:
    """The differences within pairs [pairs]."""
    if len(x) != len(y):
        raise ValueError(f"paired runs come in equal numbers; found {len(x)} and {len(y)}")
    return _filled(x) - _filled(y)


def _filled(runs: Array) -> Array:
    if len(runs) == 0:
        raise ValueError("a comparison needs at least one run of each method")
    return runs


def _check_tasks(scores: Sequence[Array]) -> None:
    if not scores or any(len(runs) == 0 for runs in scores):
        raise ValueError("bootstrap needs at least one task, and at least one run of each task")


def _resampled(scores: Sequence[Array], reps: int, seed: int) -> Iterator[list[Array]]:
    """Draws the runs of each task with replacement: blocks of one array [block, runs] per task."""
    _check_tasks(scores)
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
    """How often each run is drawn, as a share of its task's draws: [reps, runs] per task."""
    _check_tasks(scores)
    counts = [len(runs) for runs in scores]
    return [generator.multinomial(n, np.full(n, 1 / n), size=reps) / n for n in counts]


def _above(scores: Sequence[Array], thresholds: Array) -> list[Array]:
    """Whether each run scores above each threshold: 0 or 1, [runs, thresholds] per task."""
    return [(runs[:, None] > thresholds).astype(float) for runs in scores]


def _wins(x: Sequence[Array], y: Sequence[Array]) -> list[Array]:
    """Whether each run of X beats each of Y: 0, 0.5 (a tie) or 1, [runs of X, runs of Y] per task.

    Raises:
        ValueError: The numbers of tasks differ, there is no task, or a task has no run.
    """
    if len(x) != len(y):
        raise ValueError(f"both methods need the same tasks; found {len(x)} and {len(y)}")
    _check_tasks(x)
    _check_tasks(y)
    return [(np.sign(of_x[:, None] - of_y) + 1) / 2 for of_x, of_y in zip(x, y, strict=True)]


def _task_means(scores: Sequence[Array]) -> Array:
    """Stacks the mean over runs of each task: [..., tasks]."""
    return np.stack([runs.mean(axis=-1) for runs in scores], axis=-1)
