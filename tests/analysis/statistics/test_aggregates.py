"""Statistics against hand-computed values and against rliable."""

import functools

import numpy as np
import pytest
import scipy.stats
from rliable import library, metrics

from analysis.statistics import aggregates, effects, intervals, run_statistics


@pytest.fixture(scope="module")
def scores():
    """Three tasks with ten runs each: [runs, tasks]."""
    return np.random.default_rng(3).normal([0.2, 0.7, 1.1], [0.1, 0.3, 0.5], size=(10, 3))


def by_task(scores):
    return list(scores.T)


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


def test_blocks_of_resamples_draw_what_one_block_draws(scores, monkeypatch):
    tasks = [*by_task(scores), np.array([0.1, 0.9, 0.4])]
    before = intervals.bootstrap(tasks, reps=1100, seed=3)
    monkeypatch.setattr(intervals, "BLOCK", 2000)
    assert intervals.bootstrap(tasks, reps=1100, seed=3) == before


THRESHOLDS = np.linspace(-0.5, 2.5, 31)


def test_profile_and_its_band_agree_with_rliable(scores):
    np.random.seed(0)  # noqa: NPY002
    profile, band = library.create_performance_profile({"method": scores}, THRESHOLDS, reps=4000)
    tasks = by_task(scores)
    np.testing.assert_allclose(aggregates.performance_profile(tasks, THRESHOLDS), profile["method"])
    ours = intervals.performance_profile_band(tasks, THRESHOLDS)
    # The ends are multiples of 1/30, so that a quantile may fall on either side of a step.
    np.testing.assert_allclose(ours, band["method"], atol=1.01 / scores.size)
    assert np.mean(np.isclose(ours, band["method"])) > 0.9


def test_profile_weighs_tasks_equally():
    tasks = [np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.5])]
    np.testing.assert_allclose(
        aggregates.performance_profile(tasks, np.array([0.0, 0.5])), [0.875, 0.375]
    )


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


def test_difference_is_the_interval_of_welch_and_of_student():
    x, y = np.array([3.0, 5.0, 4.0, 8.0]), np.array([1.0, 2.0, 2.0, 4.0])
    for paired, test in (
        (False, scipy.stats.ttest_ind(x, y, equal_var=False)),
        (True, scipy.stats.ttest_rel(x, y)),
    ):
        low, high = test.confidence_interval(0.9)
        found = effects.difference(x, y, paired=paired, confidence=0.9)
        assert found.point == 2.75
        assert (found.low, found.high) == pytest.approx((low, high))


def test_the_difference_of_few_runs_is_covered():
    """What the percentile bootstrap does not reach with three runs: 75 to 79 of 100."""
    generator = np.random.default_rng(0)
    for paired in (False, True):
        pairs = generator.normal(size=(1000, 2, 3))
        found = [effects.difference(x, y, paired=paired) for x, y in pairs]
        assert np.mean([each.low <= 0 <= each.high for each in found]) > 0.93


def test_one_run_has_no_interval_and_equal_runs_have_no_spread():
    one = effects.difference(np.array([3.0]), np.array([1.0, 2.0]))
    assert one == intervals.Estimate(1.5, -np.inf, np.inf)
    same = effects.difference(np.array([3.0, 3.0]), np.array([1.0, 1.0]))
    assert same == intervals.Estimate(2.0, 2.0, 2.0)


def test_paired_test_by_hand():
    # Of the 2^4 sums ± 1 ± 2 ± 3 ± 4, four are as far from 0 as 8: 8, 10 and their negatives.
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert effects.paired_test(x, np.zeros(4)) == 2 / 16
    assert effects.paired_test(x * [-1, 1, 1, 1], np.zeros(4)) == 4 / 16
    assert effects.paired_test(x, x) == 1.0


def test_paired_test_agrees_with_scipy():
    x = np.random.default_rng(1).normal(0.3, size=40)
    theirs = scipy.stats.permutation_test(
        (x, np.zeros(40)),
        lambda x, y, axis: (x - y).mean(axis=axis),
        vectorized=True,
        permutation_type="samples",
        n_resamples=20_000,
        rng=0,
    ).pvalue
    assert 0.02 < theirs < 0.5
    # Two standard errors of each are about 0.005.
    assert effects.paired_test(x, np.zeros(40)) == pytest.approx(theirs, abs=0.01)


def test_seeds_needed_is_where_the_interval_leaves_the_threshold():
    x, y = np.array([1.0, 2.0, 0.5, 1.5]), np.array([0.0, 1.0, 1.2, 0.8])
    for paired in (False, True):
        more = effects.seeds_needed(x, y, paired=paired)
        assert more is not None
        assert more > 0
        for number, decided in ((more - 1, False), (more, True)):
            # Runs of the same mean and spread: shifted and scaled normal quantiles.
            many = [_like(sample, len(x) + number) for sample in ([x - y] if paired else [x, y])]
            other = many[1] if len(many) > 1 else np.zeros(len(many[0]))
            assert (effects.difference(many[0], other, paired=paired).low > 0) == decided
    assert effects.seeds_needed(x + 10, y) == 0
    assert effects.seeds_needed(x, y, threshold=0.5) is None
    assert effects.seeds_needed(x[:1], y[:1]) is None


def _like(sample, number):
    quantiles = scipy.stats.norm.ppf((np.arange(number) + 0.5) / number)
    return sample.mean() + sample.std(ddof=1) * quantiles / quantiles.std(ddof=1)


@pytest.mark.parametrize(
    "function", [effects.difference, effects.paired_test, effects.seeds_needed]
)
def test_comparisons_refuse_what_cannot_be_compared(function):
    with pytest.raises(ValueError, match="at least one run"):
        function(np.empty(0), np.empty(0))
    if function is not effects.paired_test:
        function = functools.partial(function, paired=True)
    with pytest.raises(ValueError, match="found 2 and 3"):
        function(np.zeros(2), np.zeros(3))
