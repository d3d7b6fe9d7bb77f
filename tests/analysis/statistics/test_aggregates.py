"""Aggregates against hand-computed values."""

import numpy as np
import pytest

from analysis.statistics import aggregates


def test_normalised_by_hand():
    np.testing.assert_allclose(
        aggregates.normalised(np.array([-10.0, 40.0, 90.0]), -10.0, 40.0), [0.0, 1.0, 2.0]
    )


def test_aggregates_by_hand():
    # Eight pooled runs: two are cut at each end, and 2, 3, 4, 5 remain.
    tasks = [np.array([0.0, 2.0, 4.0, 100.0]), np.array([-50.0, 3.0, 5.0, 8.0])]
    assert aggregates.iqm(tasks) == 3.5
    assert aggregates.mean(tasks) == pytest.approx((106 / 4 + -34 / 4) / 2)
    assert aggregates.median([*tasks, np.array([1.0, 1.0])]) == 1.0
    assert aggregates.optimality_gap([np.array([0.5, 3.0]), np.array([0.0, 1.0])]) == 1 - 2.5 / 4


def test_profile_weighs_tasks_equally():
    tasks = [np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.5])]
    np.testing.assert_allclose(
        aggregates.performance_profile(tasks, np.array([0.0, 0.5])), [0.875, 0.375]
    )
