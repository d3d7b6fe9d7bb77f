"""Statistics against hand-computed values and against rliable."""

import numpy as np
import pytest
from rliable import library, metrics

from analysis import stats


@pytest.fixture(scope="module")
def scores():
    """Three tasks with ten runs each: [runs, tasks]."""
    return np.random.default_rng(3).normal([0.2, 0.7, 1.1], [0.1, 0.3, 0.5], size=(10, 3))


def by_task(scores):
    return list(scores.T)


def test_run_statistics_by_hand():
    returns = np.array([100.0, 3.0, 5.0, 10.0, 2.0])
    assert stats.last(returns) == 2.0
    assert stats.last4(returns) == 5.0
    assert stats.best(returns) == 100.0


def test_run_statistics_without_enough_evaluations():
    assert np.isnan(stats.last(np.empty(0)))
    assert np.isnan(stats.best(np.empty(0)))
    assert np.isnan(stats.last4(np.array([1.0, 2.0, 3.0])))


def test_a_run_with_a_nan_evaluation_has_no_best():
    assert np.isnan(stats.best(np.array([1.0, np.nan, 3.0])))


def test_normalised_by_hand():
    np.testing.assert_allclose(
        stats.normalised(np.array([-10.0, 40.0, 90.0]), -10.0, 40.0), [0.0, 1.0, 2.0]
    )


def test_aggregates_by_hand():
    # Eight pooled runs: two are cut at each end, and 2, 3, 4, 5 remain.
    tasks = [np.array([0.0, 2.0, 4.0, 100.0]), np.array([-50.0, 3.0, 5.0, 8.0])]
    assert stats.iqm(tasks) == 3.5
    assert stats.mean(tasks) == pytest.approx((106 / 4 + -34 / 4) / 2)
    assert stats.median([*tasks, np.array([1.0, 1.0])]) == 1.0
    assert stats.optimality_gap([np.array([0.5, 3.0]), np.array([0.0, 1.0])]) == 1 - 2.5 / 4


def test_points_equal_rliable(scores):
    theirs = {
        "IQM": metrics.aggregate_iqm(scores),
        "Median": metrics.aggregate_median(scores),
        "Mean": metrics.aggregate_mean(scores),
        "Optimality gap": metrics.aggregate_optimality_gap(scores),
    }
    for name, estimate in stats.bootstrap(by_task(scores), reps=10).items():
        assert estimate.point == pytest.approx(theirs[name], rel=1e-14, abs=1e-14), name


def test_intervals_agree_with_rliable_within_monte_carlo_error(scores):
    # rliable ignores its random_state, so its draws are fixed through numpy's global generator.
    np.random.seed(0)  # noqa: NPY002
    _, theirs = library.get_interval_estimates(
        {"method": scores},
        lambda x: np.array([metrics.aggregate_iqm(x), metrics.aggregate_optimality_gap(x)]),
        reps=4000,
    )
    ours = stats.bootstrap(by_task(scores), reps=50_000)
    for column, name in enumerate(("IQM", "Optimality gap")):
        low, high = theirs["method"][:, column]
        # A quantile of 4000 draws has a standard error of about 1 % of the interval's width.
        error = 0.05 * (high - low)
        assert ours[name].low == pytest.approx(low, abs=error)
        assert ours[name].high == pytest.approx(high, abs=error)


def test_equal_seeds_give_equal_intervals(scores):
    tasks = by_task(scores)
    assert stats.bootstrap(tasks, reps=500, seed=1) == stats.bootstrap(tasks, reps=500, seed=1)
    assert stats.bootstrap(tasks, reps=500, seed=1) != stats.bootstrap(tasks, reps=500, seed=2)


def test_tasks_may_have_different_numbers_of_runs():
    tasks = [np.array([0.0, 1.0, 2.0, 3.0]), np.array([5.0])]
    estimate = stats.bootstrap(tasks, {"Mean": stats.mean}, reps=2000)["Mean"]
    assert estimate.point == (1.5 + 5.0) / 2
    # The single run of the second task never varies; the first task's mean stays in [0, 3].
    assert 2.5 <= estimate.low < estimate.point < estimate.high <= 4.0


def test_resampling_is_within_tasks():
    tasks = [np.full(3, 0.2), np.full(5, 0.9)]
    for estimate in stats.bootstrap(tasks, reps=200).values():
        assert estimate.low == pytest.approx(estimate.point)
        assert estimate.high == pytest.approx(estimate.point)


@pytest.mark.parametrize("tasks", [[], [np.array([1.0]), np.empty(0)]])
def test_bootstrap_refuses_a_task_without_runs(tasks):
    with pytest.raises(ValueError, match="at least one"):
        stats.bootstrap(tasks)
