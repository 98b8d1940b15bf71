"""Boundaries by alpha spending: published values, and the chance of ever crossing them by another way."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from softalign.registry.spending import boundaries, equal_boundaries, spent_at


def chance_of_crossing(bounds, times):
    """Return it as one minus a multivariate normal probability."""
    covariance = [[min(s, t) / (s * t) ** 0.5 for s in times] for t in times]
    inside = multivariate_normal(np.zeros(len(times)), covariance, abseps=1e-7, releps=1e-7, maxpts=2_000_000, seed=0)
    return 1 - inside.cdf(np.array(bounds))


def test_five_equal_looks_have_the_published_boundaries():
    # two-sided 0.05, spending like O'Brien and Fleming: K. K. G. Lan and D. L. DeMets, 1983; R's ldbounds has the same
    assert equal_boundaries(5, 0.025) == pytest.approx((4.877, 3.357, 2.680, 2.290, 2.031), abs=5e-4)


def test_one_look_is_the_plain_test():
    assert equal_boundaries(1, 0.025) == pytest.approx((1.959964,), abs=1e-6)
    assert spent_at(1.0, 0.025) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("times", "alpha"), [((0.25, 0.5, 0.75, 1.0), 0.025), ((0.5, 0.6, 1.0), 0.05), ((0.1, 1), 0.2)]
)
def test_the_chance_of_ever_crossing_is_the_error_rate(times, alpha):
    bounds = boundaries(times, alpha)
    for looks in range(1, len(times) + 1):
        spent = spent_at(times[looks - 1], alpha)
        assert chance_of_crossing(bounds[:looks], times[:looks]) == pytest.approx(spent, abs=2e-5)
    assert list(bounds) == sorted(bounds, reverse=True)


def test_statistics_that_correlate_more_cross_less_often():
    bounds = equal_boundaries(4, 0.025)
    growing = [1 / (0.02 + 0.1 / drawn) for drawn in range(1, 5)]  # prompts differ, so later images bring less
    assert chance_of_crossing(bounds, growing) < 0.025


def test_very_many_looks_have_boundaries_too():
    bounds = equal_boundaries(100, 0.0005)
    assert np.isfinite(bounds).all() and list(bounds) == sorted(bounds, reverse=True)
    assert bounds[0] == pytest.approx(34.8, abs=0.1) and 3.29 < bounds[-1] < 3.5
