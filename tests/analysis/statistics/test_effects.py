"""Effects of one method against another, by hand and against scipy."""

import functools

import numpy as np
import pytest
import scipy.stats

from analysis.statistics import effects, intervals


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
