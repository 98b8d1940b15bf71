"""Whether the promotion gate's answer is certain before all images are drawn.

Images come in rounds: round r is image r of every prompt, of every arm. After each round every condition of the gate is
looked at:

- that an interval lies above a threshold is certain once the statistic is beyond a boundary that spends the error rate
  over the looks (``spending``); all such conditions must hold, so none of them needs a smaller one;
- that an estimate reaches a threshold is certain once the estimate of all rounds will, or will not, almost surely;
- promotion is hopeless once a condition will almost surely fail. This is no part of the error rate: the boundaries are
  those of a run without it, so whoever draws on keeps the rate (non-binding).

What is still to come is predicted from what was seen: given the rounds so far, the estimate of all rounds is normal
about the present one, with the variance that is left (a flat prior; D. J. Spiegelhalter, L. S. Freedman and P. R.
Blackburn, Monitoring clinical trials: conditional or predictive power?, 1986). Conditional power would ask for the
true effect, which is what is looked for.

Shape legend: P prompts, R rounds drawn so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from softalign.config.registration import PromotionPolicy
from softalign.registry.spending import equal_boundaries

Answer = Literal["yes", "no", "open"]
HOPELESS = 0.05
"""The chance of an interval above its threshold, below which nothing more is drawn."""
ALMOST_SURELY = 0.99
"""The chance with which an estimate reaches, or misses, its threshold."""

Differences = Mapping[str, NDArray[np.int8]]
"""For each tag, candidate - reference of each prompt's images so far, (P, R): -1, 0 or 1."""


@dataclass(frozen=True)
class Estimate:
    """A difference after some rounds.

    Attributes:
        value: the mean (a ratio).
        variance: of it.
        final_variance: of the estimate of all rounds; predicted.
    """

    value: float
    variance: float
    final_variance: float

    def chance_above(self, threshold: float) -> float:
        """Return the chance that the estimate of all rounds is at least a threshold."""
        left = max(self.variance - self.final_variance, 0.0) ** 0.5
        if left == 0.0:
            return float(self.value >= threshold)
        return float(ndtr((self.value - threshold) / left))


@dataclass(frozen=True)
class Condition:
    """One condition of the gate.

    Attributes:
        name: as the gate's check is called.
        estimate: of the difference.
        threshold: which it is held against.
        is_of_interval: the interval must lie above the threshold; else the estimate.
    """

    name: str
    estimate: Estimate
    threshold: float
    is_of_interval: bool

    def answer(self, bounds: Sequence[float], round_index: int) -> Answer:
        """Return whether it holds for certain after a round, counted from 0."""
        final = round_index == len(bounds) - 1
        if self.is_of_interval:
            return self._answer_of_interval(bounds[round_index], bounds[-1], is_final=final)
        chance = self.estimate.chance_above(self.threshold)
        if chance >= ALMOST_SURELY:
            return "yes"
        return "no" if final or chance <= 1.0 - ALMOST_SURELY else "open"

    def _answer_of_interval(self, bound: float, last_bound: float, *, is_final: bool) -> Answer:
        estimate = self.estimate
        if estimate.value - self.threshold > bound * estimate.variance**0.5:
            return "yes"
        needed = self.threshold + last_bound * estimate.final_variance**0.5
        return "no" if is_final or estimate.chance_above(needed) <= HOPELESS else "open"


def overall_estimate(differences: Differences, num_rounds: int) -> Estimate:
    """Return the mean over tags of their differences, every tag with the same weight."""
    return _mean([tag_estimate(rounds_PR, num_rounds) for rounds_PR in differences.values()])


def tag_estimate(rounds_PR: NDArray[np.int8], num_rounds: int) -> Estimate:
    """Return a tag's difference; prompts are what the suite sampled, so variances are those over prompts.

    After one round, what prompts differ by cannot be told from chance; it is taken for chance, with which most is left
    open. Where all prompts have the same difference, the next image may be the first that has another: with the chance
    1 / (images + 1), P. S. Laplace's rule of succession.

    Args:
        rounds_PR: the differences so far.
        num_rounds: how many are to be drawn.
    """
    num_prompts, drawn = rounds_PR.shape
    means_P = rounds_PR.mean(axis=1)
    spread = float(means_P.var(ddof=1)) if num_prompts > 1 else 0.0
    within = float(rounds_PR.var(axis=1, ddof=1).mean()) if drawn > 1 else spread
    if spread == 0.0:
        within = 1.0 / (rounds_PR.size + 1)
        spread = within / drawn
    between = max(spread - within / drawn, 0.0)
    final = spread if drawn == num_rounds else min(spread, between + within / num_rounds)
    return Estimate(float(means_P.mean()), spread / num_prompts, final / num_prompts)


def conditions(
    policy: PromotionPolicy,
    over_base: Differences,
    over_untrained: Differences,
    over_champion: Differences | None,
    num_rounds: int,
) -> Iterator[Condition]:
    """Return the gate's conditions on paired differences, named as its checks are."""
    gain = overall_estimate(over_base, num_rounds)
    yield Condition("overall_gain", gain, policy.min_overall_gain, is_of_interval=False)
    if policy.requires_significant_gain:
        yield Condition("gain_significant", gain, 0.0, is_of_interval=True)
    yield from _tag_conditions("tag_drop", over_base, policy.max_tag_drop, num_rounds)
    if policy.must_beat_untrained:
        over = overall_estimate(over_untrained, num_rounds)
        yield Condition("beats_untrained", over, 0.0, is_of_interval=policy.requires_significant_gain)
    if over_champion is not None:
        beside = overall_estimate(over_champion, num_rounds)
        yield Condition("not_worse_than_champion", beside, -policy.max_drop_below_champion, is_of_interval=True)
        margin = policy.max_tag_drop_below_champion
        yield from _tag_conditions("champion_tag_drop", over_champion, margin, num_rounds)


def gate_answer(
    policy: PromotionPolicy,
    over_base: Differences,
    over_untrained: Differences,
    over_champion: Differences | None = None,
    *,
    num_rounds: int,
    confidence: float,
    is_stopped_when_hopeless: bool = True,
) -> Answer:
    """Return whether promotion is certain (yes), hopeless (no), or needs another round; after the last it is decided.

    Args:
        policy: the gate's. Its guards are of numbers that are not predicted, so with guards nothing is promoted before
            the last round; below ``min_images`` nothing is decided.
        over_base: of the rounds so far, as are the others.
        over_untrained: over untrained tokens.
        over_champion: None without a champion.
        num_rounds: how many rounds there are in all.
        confidence: of the gate's two-sided intervals.
        is_stopped_when_hopeless: before the last round, no answer but yes is given without it.
    """
    drawn = next(iter(over_base.values())).shape[1]
    is_final = drawn == num_rounds
    if not is_final and sum(rounds_PR.size for rounds_PR in over_base.values()) < policy.min_images:
        return "open"
    bounds = equal_boundaries(num_rounds, (1.0 - confidence) / 2.0)
    found = conditions(policy, over_base, over_untrained, over_champion, num_rounds)
    answers = {condition.answer(bounds, drawn - 1) for condition in found}
    if "no" in answers:
        return "no" if is_final or is_stopped_when_hopeless else "open"
    return "open" if "open" in answers or (policy.guards and not is_final) else "yes"


def _tag_conditions(kind: str, differences: Differences, margin: float, num_rounds: int) -> Iterator[Condition]:
    for tag, rounds_PR in differences.items():
        yield Condition(f"{kind}:{tag}", tag_estimate(rounds_PR, num_rounds), -margin, is_of_interval=False)


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    number = len(estimates)
    return Estimate(
        value=sum(one.value for one in estimates) / number,
        variance=sum(one.variance for one in estimates) / number**2,
        final_variance=sum(one.final_variance for one in estimates) / number**2,
    )
