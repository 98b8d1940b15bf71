"""Comparing at equal adherence: an arm that only moves along the other's front over guidance counts no better there."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from softalign.study.hypotheses import Hypothesis
from softalign.study.testing import Case, _at_equal_adherence

GUIDANCE = (1.0, 1.5, 2.0, 3.0, 4.0)
PROMPTS = {"position": 24, "color_attr": 25, "counting": 42}
HYPOTHESIS = Hypothesis(
    name="H",
    statement="counts better at equal adherence",
    measure="at_equal_adherence",
    left=("left",),
    right=("right",),
    tags=("counting",),
    guidance=(1.0, 1.5, 2.0),
)


class DrawnSides:
    """Both sides of one simulated study: adherence rises with guidance, counting falls, images share their noise.

    ``ahead`` is how much more guidance the left arm is like; ``better`` how much more it counts.
    """

    def __init__(self, rng, ahead, better):
        self.scores = SimpleNamespace(
            study=SimpleNamespace(adherence=("position", "color_attr"), matrix=SimpleNamespace(guidance=GUIDANCE))
        )
        self._rng, self._ahead, self._better = rng, ahead, better
        self._prompts = {tag: rng.normal(0, 1.0, number) for tag, number in PROMPTS.items()}
        self._noise = {tag: rng.normal(0, 0.5**0.5, (number, 5)) for tag, number in PROMPTS.items()}
        self._seeds = rng.normal(0, 0.03, (2, 3))

    def left(self, guidance):
        return self._drawn(0, guidance + self._ahead, self._better)

    def right(self, guidance):
        return self._drawn(1, guidance, 0.0)

    def _drawn(self, side, guidance, better):
        return {tag: self._ratios(tag, side, guidance, better) for tag in PROMPTS}

    def _ratios(self, tag, side, guidance, better):
        score = 0.35 - 0.05 * (guidance - 1) + better if tag == "counting" else 0.5 + 0.05 * (guidance - 1)
        limits = norm.ppf(score) * 2**0.5 + self._prompts[tag]
        own = self._rng.normal(0, 0.5**0.5, (3, *self._noise[tag].shape))
        right = self._noise[tag] + own < limits[None, :, None] + self._seeds[side][:, None, None]
        return right.mean(axis=2)


def share_shown(ahead, better, number):
    rng = np.random.default_rng(4)
    case = Case(HYPOTHESIS, "mmdit", SimpleNamespace(), "right")
    found = [_at_equal_adherence(case, DrawnSides(rng, ahead, better)) for _ in range(number)]
    return np.mean([one.p_value <= 0.05 for one in found]), np.mean([one.estimate.value for one in found])


@pytest.mark.parametrize("ahead", [0.0, 1.0])
def test_more_guidance_alone_is_no_better_counting(ahead):
    shown, value = share_shown(ahead, 0.0, 200)
    assert shown <= 0.08 and value == pytest.approx(0.0, abs=0.02)  # 0.05, and what 200 studies may add


def test_better_counting_at_equal_adherence_is_shown():
    shown, value = share_shown(0.5, 0.15, 60)
    assert shown >= 0.8 and value == pytest.approx(0.15, abs=0.03)
