"""Intervals and tests over seeds, beside scipy's and by simulation."""

import numpy as np
import pytest
from scipy import stats

from squeeze_jax.report.statistics import Interval, confidence, holm, p_above, p_below, p_different
from squeeze_jax.report.tables import show_interval


def test_interval_is_students():
    values = [95.1, 96.3, 94.2, 95.8]
    found = confidence(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    # t(1 degree) times 1
    assert confidence([1.0, 3.0]).errors == pytest.approx((12.7062047, 12.7062047))
    assert confidence([90.0]) == confidence([90.0], percent=True) == Interval(90.0)


def coverage(mean, deviation, seeds, images, percent):
    """The share of simulated studies whose interval covers the mean of the seeds' distribution."""
    random = np.random.default_rng(0)
    weight = mean * (1 - mean) / deviation**2 - 1
    shares = random.beta(mean * weight, (1 - mean) * weight, (3000, seeds))
    intervals = [confidence(100 * row, percent) for row in random.binomial(images, shares) / images]
    return np.mean([each.low <= 100 * mean <= each.high for each in intervals]), intervals


@pytest.mark.parametrize(
    "mean, deviation, seeds", [(0.96, 0.02, 3), (0.96, 0.02, 5), (0.99, 0.005, 5)]
)
def test_intervals_of_percentages_cover_and_stay_in_range(mean, deviation, seeds):
    """Three standard errors of 3,000 studies are 1.2 points."""
    covered, intervals = coverage(mean, deviation, seeds, 360, percent=True)
    assert 0.938 < covered < 0.97
    assert all(0 <= each.low <= each.mean <= each.high <= 100 for each in intervals)
    plain, intervals = coverage(mean, deviation, seeds, 360, percent=False)
    assert plain < covered - 0.005 and any(each.high > 100 for each in intervals)


def test_shown_intervals():
    percent = confidence([97.0, 99.0, 98.5], percent=True)
    assert show_interval("top1", percent) == "98.2 +1.4 −5.5"
    assert show_interval("top1", confidence([50.0, 52.0, 51.0], percent=True)) == "51.0 ± 2.5"
    assert show_interval("top1", confidence([50.0, 52.0])) == "51.0 ± 12.7, n = 2"
    assert show_interval("top1", confidence([1.0, 2.0, 3.0]), sign="+") == "+2.0 ± 2.5"
    assert show_interval("top1", confidence([100.0] * 3, percent=True)) == "100.0 ± 0.0"
    assert show_interval("top1", Interval(90.0)) == "90.0" and show_interval("top1", None) == "–"


def test_p_values_are_scipys():
    values = [0.4, 1.9, 0.7, -0.2, 1.1]
    for bound in (-0.5, 0.0, 1.0):
        test = stats.ttest_1samp(values, bound, alternative="greater")
        assert p_above(values, bound) == pytest.approx(test.pvalue)
        assert p_below(values, bound) == pytest.approx(1 - test.pvalue)
    assert p_different(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_few_or_equal_differences_show_little():
    assert p_above([3.0]) == p_below([3.0]) == p_different([3.0]) == 1.0
    assert p_above([0.3, 0.3, 0.3]) == 0.125 and p_below([0.3, 0.3, 0.3]) == 1.0
    assert p_different([0.0, 0.0]) == 1.0


def test_holm_is_the_step_down_rule():
    """Reject in ascending order while p <= 0.05 / (hypotheses left)."""
    random = np.random.default_rng(1)
    for _ in range(200):
        p = random.uniform(0, 0.06, 5)
        rejected = set()
        for rank, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (5 - rank):
                break
            rejected.add(int(index))
        assert {i for i, value in enumerate(holm(list(p))) if value <= 0.05} == rejected
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([]) == []
