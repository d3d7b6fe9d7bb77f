"""Statistics of a run against hand-computed values."""

import numpy as np

from analysis.statistics import run_statistics


def test_run_statistics_by_hand():
    returns = np.array([100.0, 3.0, 5.0, 10.0, 2.0])
    assert run_statistics.last(returns) == 2.0
    assert run_statistics.last4(returns) == 5.0
    assert run_statistics.best(returns) == 100.0


def test_run_statistics_without_enough_evaluations():
    assert np.isnan(run_statistics.last(np.empty(0)))
    assert np.isnan(run_statistics.best(np.empty(0)))
    assert np.isnan(run_statistics.last4(np.array([1.0, 2.0, 3.0])))


def test_a_run_with_a_nan_evaluation_has_no_best():
    assert np.isnan(run_statistics.best(np.array([1.0, np.nan, 3.0])))


def test_area_under_the_curve_by_hand():
    steps, returns = np.array([100.0, 200.0, 500.0]), np.array([0.0, 2.0, 4.0])
    # Trapezes: 100 steps at 1 on average, 300 steps at 3.
    assert run_statistics.area_under_curve(steps, returns) == (100 * 1 + 300 * 3) / 400
    assert run_statistics.area_under_curve(steps[:1], returns[1:2]) == 2.0
    assert np.isnan(run_statistics.area_under_curve(np.empty(0), np.empty(0)))


def test_steps_to_a_threshold_by_hand():
    steps, returns = np.array([100.0, 200.0, 500.0]), np.array([1.0, np.nan, 4.0])
    assert run_statistics.steps_to(steps, returns, 1.0) == 100
    assert run_statistics.steps_to(steps, returns, 2.0) == 500
    assert run_statistics.steps_to(steps, returns, 5.0) == np.inf
    assert np.isnan(run_statistics.steps_to(steps, np.full(3, np.nan), 5.0))
    assert np.isnan(run_statistics.steps_to(np.empty(0), np.empty(0), 5.0))
