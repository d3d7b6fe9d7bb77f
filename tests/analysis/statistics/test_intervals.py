"""Aggregates and their intervals against rliable."""

import numpy as np
import pytest
from rliable import library, metrics

from analysis.statistics import aggregates, intervals

THRESHOLDS = np.linspace(-0.5, 2.5, 31)


@pytest.fixture(scope="module")
def scores():
    """Three tasks with ten runs each: [runs, tasks]."""
    return np.random.default_rng(3).normal([0.2, 0.7, 1.1], [0.1, 0.3, 0.5], size=(10, 3))


def by_task(scores):
    return list(scores.T)


def test_points_equal_rliable(scores):
    theirs = {
        "IQM": metrics.aggregate_iqm(scores),
        "Median": metrics.aggregate_median(scores),
        "Mean": metrics.aggregate_mean(scores),
        "Optimality gap": metrics.aggregate_optimality_gap(scores),
    }
    for name, estimate in intervals.bootstrap(by_task(scores), reps=10).items():
        assert estimate.point == pytest.approx(theirs[name], rel=1e-14, abs=1e-14), name


def test_intervals_agree_with_rliable_within_monte_carlo_error(scores):
    # rliable ignores its random_state, so its draws are fixed through numpy's global generator.
    np.random.seed(0)  # noqa: NPY002
    _, theirs = library.get_interval_estimates(
        {"method": scores},
        lambda x: np.array([metrics.aggregate_iqm(x), metrics.aggregate_optimality_gap(x)]),
        reps=4000,
    )
    ours = intervals.bootstrap(by_task(scores), reps=50_000)
    for column, name in enumerate(("IQM", "Optimality gap")):
        low, high = theirs["method"][:, column]
        # A quantile of 4000 draws has a standard error of about 1 % of the interval's width.
        error = 0.05 * (high - low)
        assert ours[name].low == pytest.approx(low, abs=error)
        assert ours[name].high == pytest.approx(high, abs=error)


def test_equal_seeds_give_equal_intervals(scores):
    tasks = by_task(scores)
    first, again, other = (intervals.bootstrap(tasks, reps=500, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_tasks_may_have_different_numbers_of_runs():
    tasks = [np.array([0.0, 1.0, 2.0, 3.0]), np.array([5.0])]
    only_mean = {"Mean": aggregates.AGGREGATES["Mean"]}
    estimate = intervals.bootstrap(tasks, only_mean, reps=2000)["Mean"]
    assert estimate.point == (1.5 + 5.0) / 2
    # The single run of the second task never varies; the first task's mean stays in [0, 3].
    assert 2.5 <= estimate.low < estimate.point < estimate.high <= 4.0


def test_resampling_is_within_tasks():
    tasks = [np.full(3, 0.2), np.full(5, 0.9)]
    for estimate in intervals.bootstrap(tasks, reps=200).values():
        assert estimate.low == pytest.approx(estimate.point)
        assert estimate.high == pytest.approx(estimate.point)


@pytest.mark.parametrize("tasks", [[], [np.array([1.0]), np.empty(0)]])
def test_bootstrap_refuses_a_task_without_runs(tasks):
    with pytest.raises(ValueError, match="at least one"):
        intervals.bootstrap(tasks)


def test_blocks_of_resamples_draw_what_one_block_draws(scores, monkeypatch):
    tasks = [*by_task(scores), np.array([0.1, 0.9, 0.4])]
    before = intervals.bootstrap(tasks, reps=1100, seed=3)
    monkeypatch.setattr(intervals, "BLOCK", 2000)
    assert intervals.bootstrap(tasks, reps=1100, seed=3) == before


def test_profile_and_its_band_agree_with_rliable(scores):
    np.random.seed(0)  # noqa: NPY002
    profile, band = library.create_performance_profile({"method": scores}, THRESHOLDS, reps=4000)
    tasks = by_task(scores)
    np.testing.assert_allclose(aggregates.performance_profile(tasks, THRESHOLDS), profile["method"])
    ours = intervals.performance_profile_band(tasks, THRESHOLDS)
    # The ends are multiples of 1/30, so that a quantile may fall on either side of a step.
    np.testing.assert_allclose(ours, band["method"], atol=1.01 / scores.size)
    assert np.mean(np.isclose(ours, band["method"])) > 0.9


def test_probability_of_improvement_agrees_with_rliable(scores):
    # Rounded, so that there are ties.
    x, y = np.round(scores, 1), np.round(scores[::-1, ::-1][:7], 1)
    theirs = metrics.probability_of_improvement(x, y)
    ours = intervals.probability_of_improvement_estimate(by_task(x), by_task(y), reps=50_000)
    assert ours.point == pytest.approx(theirs, rel=1e-12)
    np.random.seed(0)  # noqa: NPY002
    _, theirs_interval = library.get_interval_estimates(
        {"pair": [x, y]},
        lambda *pair: np.array([metrics.probability_of_improvement(*pair)]),
        reps=1000,
    )
    low, high = theirs_interval["pair"][:, 0]
    # A quantile of 1000 draws has a standard error of about 2 % of the interval's width.
    assert ours.low == pytest.approx(low, abs=0.08 * (high - low))
    assert ours.high == pytest.approx(high, abs=0.08 * (high - low))


def test_probability_of_improvement_refuses_other_tasks(scores):
    with pytest.raises(ValueError, match="same tasks; found 3 and 2"):
        aggregates.probability_of_improvement(by_task(scores), by_task(scores)[:2])
