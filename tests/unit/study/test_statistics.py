"""Intervals over seeds and prompts: their arithmetic, their level and their power."""

import numpy as np
import pytest

from softalign.study.statistics import estimate, mean_weights, minus
from softalign.study.testing import _shares_at, _slope
from tests.study_simulation import World, shares_told, with_true_difference


def test_the_error_has_the_variance_of_seeds_and_of_prompts():
    values_SP = np.array([[0.0, 0.2, 0.4], [0.2, 0.4, 0.6]])
    found = estimate({"a": values_SP}, {"a": 1.0})
    of_seeds, of_prompts = np.var([0.2, 0.4], ddof=1) / 2, np.var([0.1, 0.3, 0.5], ddof=1) / 3
    assert found.value == pytest.approx(0.3)
    assert found.error == pytest.approx((of_seeds + of_prompts) ** 0.5)
    assert found.freedom == pytest.approx((of_seeds + of_prompts) ** 2 / (of_seeds**2 / 1 + of_prompts**2 / 2))
    low, high = found.interval(0.95)
    assert low < 0.3 < high and low + high == pytest.approx(0.6)


def test_one_row_has_no_spread_of_seeds_and_serves_as_everybodys_reference():
    left, right = {"a": np.array([[0.5, 0.7], [0.6, 0.8]])}, {"a": np.array([[0.4, 0.6]])}
    assert minus(left, right)["a"] == pytest.approx(np.array([[0.1, 0.1], [0.2, 0.2]]))
    alone = estimate(right, {"a": 1.0})
    assert (alone.num_seeds, alone.freedom) == (1, 1.0)


def test_what_never_varies_is_as_claimed_or_not():
    same = estimate({"a": np.full((3, 4), 0.25)}, {"a": 1.0})
    assert (same.p_value("greater"), same.p_value("less"), same.p_value("two_sided")) == (0.0, 1.0, 0.0)
    assert same.interval(0.95) == (0.25, 0.25)


def test_a_one_sided_p_value_looks_at_its_side_and_threshold():
    rng = np.random.default_rng(0)
    found = estimate({"a": 0.1 + rng.normal(0, 0.05, (3, 20))}, {"a": 1.0})
    assert found.p_value("greater") < 0.05 < found.p_value("greater", 0.1 + found.value)
    assert found.p_value("greater") + found.p_value("less") == pytest.approx(1.0)
    assert found.p_value("two_sided") == pytest.approx(2 * found.p_value("greater"))


def test_a_front_is_met_between_its_neighbours_or_at_its_nearest_end():
    assert _shares_at(0.55, [0.5, 0.6, 0.7]) == pytest.approx([0.5, 0.5, 0.0])
    assert _shares_at(0.9, [0.5, 0.6, 0.7]) == [0.0, 0.0, 1.0]
    assert _slope([(0.5, 0.4), (0.6, 0.3)]) == pytest.approx(-1.0)
    assert _slope([(0.5, 0.4), (0.5, 0.3)]) == 0.0


def test_false_alarms_are_rare_and_what_can_be_told_is_told():
    world = World(seed_sd=0.01)
    alarms, value, detectable = shares_told(world, 300, seed=1)
    assert alarms <= 0.05 and value == pytest.approx(0.0, abs=0.005)
    found, _, _ = shares_told(with_true_difference(world, detectable), 200, seed=2)
    assert found >= 0.7  # 0.8, and what 200 studies may miss


@pytest.mark.slow
@pytest.mark.parametrize("is_base", [False, True])
@pytest.mark.parametrize("seed_sd", [0.0, 0.01, 0.02])
def test_level_and_power_over_many_studies(seed_sd, is_base):
    world = World(seed_sd=seed_sd)
    alarms, _, detectable = shares_told(world, 4000, seed=1, is_base=is_base)
    assert alarms <= 0.05
    found, _, _ = shares_told(with_true_difference(world, detectable, is_base=is_base), 2000, seed=2, is_base=is_base)
    assert found >= 0.78
    assert mean_weights(world.tags)["colors"] == 0.25


@pytest.mark.slow
def test_percentiles_of_three_resampled_seeds_raise_too_many_alarms():
    """Why intervals are not plain bootstrap percentiles: seeds as far apart as prompts make them too narrow."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        values_SP = rng.normal(0, 0.04, (3, 1)) + rng.normal(0, 0.1, (1, 40)) + rng.normal(0, 0.1, (3, 40))
        picks_R3, picks_RP = rng.integers(3, size=(500, 3)), rng.integers(40, size=(500, 40))
        means_R = values_SP[picks_R3[:, :, None], picks_RP[:, None, :]].mean(axis=(1, 2))
        low, high = np.quantile(means_R, [0.025, 0.975])
        alarms += low > 0 or high < 0
    assert alarms / 400 > 0.08
