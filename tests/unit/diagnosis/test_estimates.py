"""Means, shares and directions, against numbers that are known beforehand."""

import pytest
import torch

from softalign.diagnosis.estimates import along, mean_estimate, relative_norms, share_estimate
from tests.tiny_families import drawn


def test_a_mean_has_the_normal_interval():
    found = mean_estimate(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    half = 1.959964 * (5 / 3) ** 0.5 / 2
    assert (found.mean, found.number) == (2.5, 4)
    assert (found.low, found.high) == (pytest.approx(2.5 - half), pytest.approx(2.5 + half))


def test_a_share_has_wilsons_interval():
    found = share_estimate(8, 10)  # Newcombe 1998, method 3, for 8 of 10
    assert (round(found.low, 4), round(found.high, 4)) == (0.4902, 0.9433)
    sure = share_estimate(10, 10)
    assert sure.high == pytest.approx(1.0)
    assert round(sure.low, 4) == 0.7225


def test_more_guidance_is_found_and_something_else_is_not_called_it():
    guidance = drawn(3, 4, 8, 8)
    found = along(0.3 * guidance, guidance)
    torch.testing.assert_close(found.cosines_B, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(found.factors_B, torch.full((3,), 0.3, dtype=torch.float64))
    other = drawn(3, 4, 8, 8, seed=1)
    aside = other - (other * guidance).sum((1, 2, 3), keepdim=True) / guidance.square().sum((1, 2, 3), keepdim=True) * (
        guidance
    )
    assert along(aside, guidance).cosines_B.abs().max() < 1e-12
    assert along(-guidance, guidance).cosines_B.max() < -0.999
    assert along(torch.zeros_like(guidance), guidance).cosines_B.tolist() == [0.0] * 3


def test_a_change_is_relative_to_what_it_changes():
    values = drawn(2, 4, 8, 8)
    torch.testing.assert_close(relative_norms(-0.25 * values, values), torch.full((2,), 0.25, dtype=torch.float64))
