"""The hypotheses' tests: what each looks at, as one number for each seed and prompt, and what it shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from softalign.evaluation.statistics import holm
from softalign.study.choosing import best_of
from softalign.study.hypotheses import CONTROLS, Direction, Hypothesis
from softalign.study.results import Choice, Outcome, Verdict
from softalign.study.scores import Scores, Values
from softalign.study.statistics import Estimate, estimate, mean_weights, minus

MIN_SPREAD = 1e-6
"""Of a front's adherence: a flatter one has no slope."""


@dataclass(frozen=True)
class Case:
    """A hypothesis on one recipe, against one reference.

    Attributes:
        left: the arm that is looked at, with its length.
        right: the reference's name.
    """

    hypothesis: Hypothesis
    recipe: str
    left: Choice
    right: str


@dataclass(frozen=True)
class Tested:
    """What a case came to; ``where`` says at which guidance or lengths."""

    case: Case
    estimate: Estimate
    p_value: float
    where: str = ""


def verdicts(scores: Scores, choices: Sequence[Choice], calls: Mapping[tuple[str, float], int]) -> tuple[Verdict, ...]:
    """Return what each hypothesis came to on each recipe.

    Of several references the one with the largest p-value counts, as the statement must hold against all of them.

    Args:
        scores: of all cells.
        choices: the arms' lengths.
        calls: how often the denoiser sees an image, by recipe and guidance.
    """
    worst = [
        max((_tested(case, scores, choices, calls) for case in cases), key=lambda one: one.p_value)
        for cases in _cases(scores, choices)
    ]
    adjusted = holm({_key(one): one.p_value for one in worst})
    return tuple(_verdict(one, adjusted[_key(one)], scores.study.confidence) for one in worst)


def _cases(scores: Scores, choices: Sequence[Choice]) -> Iterator[list[Case]]:
    for hypothesis in scores.study.hypotheses:
        for recipe in scores.study.recipes:
            left = best_of(choices, recipe, hypothesis.left)
            yield [Case(hypothesis, recipe, left, right) for right in hypothesis.right]


def _key(one: Tested) -> str:
    return f"{one.case.hypothesis.name}/{one.case.recipe}"


def _tested(case: Case, scores: Scores, choices: Sequence[Choice], calls: Mapping[tuple[str, float], int]) -> Tested:
    sides = Sides(case, scores, choices)
    match case.hypothesis.measure:
        case "difference":
            return _plain(case, _mean(sides.difference(one) for one in case.hypothesis.guidance))
        case "change":
            return _change(case, sides)
        case "at_equal_adherence":
            return _at_equal_adherence(case, sides)
        case "dominates":
            return _dominates(case, sides, calls)


@dataclass(frozen=True)
class Sides:
    """The scores of both sides of a case at any guidance."""

    case: Case
    scores: Scores
    choices: Sequence[Choice]

    def left(self, guidance: float, num_steps: int | None = None) -> Values:
        """Return the left arm's scores at its chosen length, or another."""
        length = self.case.left.num_steps if num_steps is None else num_steps
        return self.scores.values(self.case.recipe, self.case.left.arm, length, guidance)

    def right(self, guidance: float, num_steps: int | None = None) -> Values:
        """Return the reference's scores likewise."""
        name, left = self.case.right, self.case.left
        if name in CONTROLS:
            return self.scores.control(self.case.recipe, name, left.arm, left.num_steps, guidance)
        length = best_of(self.choices, self.case.recipe, (name,)).num_steps if num_steps is None else num_steps
        return self.scores.values(self.case.recipe, name, length, guidance)

    def difference(self, guidance: float, against: float | None = None) -> Values:
        """Return left - right, right at the same guidance or another."""
        return minus(self.left(guidance), self.right(guidance if against is None else against))


def _plain(case: Case, values: Values, where: str = "") -> Tested:
    found, hypothesis = estimate(values, mean_weights(case.hypothesis.tags)), case.hypothesis
    return Tested(case, found, found.p_value(hypothesis.test, hypothesis.threshold), where)


def _change(case: Case, sides: Sides) -> Tested:
    first, last = case.hypothesis.num_steps or (None, None)
    guidance = case.hypothesis.guidance
    gains = (
        minus(
            minus(sides.left(one, last), sides.left(one, first)), minus(sides.right(one, last), sides.right(one, first))
        )
        for one in guidance
    )
    return _plain(case, _mean(gains), f"from {first:,} to {last:,} steps")


def _at_equal_adherence(case: Case, sides: Sides) -> Tested:
    """Compare with the point of right's front over guidance that has left's adherence.

    That point lies between two guidances. Where it lies is estimated from the same images; so the difference is taken
    along the front's slope (counting by adherence): its value is the same, and its error then has that of the place.
    """
    study = sides.scores.study
    fronts = [sides.right(one) for one in sorted(study.matrix.guidance)]
    slope = _slope([(_level(one, study.adherence), _level(one, case.hypothesis.tags)) for one in fronts])
    weights = {tag: 0.0 for tag in (*case.hypothesis.tags, *study.adherence)}
    for tags, weight in ((case.hypothesis.tags, 1.0), (study.adherence, -slope)):
        for tag in tags:
            weights[tag] += weight / len(tags)
    differences, places = [], []
    for guidance in case.hypothesis.guidance:
        left = sides.left(guidance)
        shares = _shares_at(_level(left, study.adherence), [_level(one, study.adherence) for one in fronts])
        differences.append(minus(left, _weighted(fronts, shares)))
        places.append(sum(share * one for share, one in zip(shares, sorted(study.matrix.guidance), strict=True)))
    found = estimate(_mean(differences), weights)
    where = ", ".join(
        f"{one:g} against {place:.3g}" for one, place in zip(case.hypothesis.guidance, places, strict=True)
    )
    return Tested(case, found, found.p_value(case.hypothesis.test, case.hypothesis.threshold), f"guidance {where}")


def _dominates(case: Case, sides: Sides, calls: Mapping[tuple[str, float], int]) -> Tested:
    """Look for a pair of guidances where left has more adherence, no fewer counts and no more denoiser calls.

    Both must be shown at the pair, so its p-value is the larger one; the best pair's is multiplied by how many there
    are (Bonferroni).
    """
    hypothesis, adherence = case.hypothesis, mean_weights(sides.scores.study.adherence)
    found: list[Tested] = []
    for mine in hypothesis.guidance:
        for other in hypothesis.against_guidance:
            if calls[case.recipe, mine] > calls[case.recipe, other]:
                continue
            values = sides.difference(mine, other)
            gain, kept = estimate(values, adherence), estimate(values, mean_weights(hypothesis.tags))
            p_value = max(gain.p_value("greater"), kept.p_value("greater", -hypothesis.margin))
            where = f"guidance {mine:g} against {other:g}; {', '.join(hypothesis.tags)} {kept.value * 100:+.1f} points"
            found.append(Tested(case, gain, p_value, where))
    best = min(found, key=lambda one: one.p_value)
    return Tested(case, best.estimate, min(1.0, best.p_value * len(found)), best.where)


def _level(values: Values, tags: Sequence[str]) -> float:
    return float(np.mean([values[tag].mean() for tag in tags]))


def _mean(every: Iterator[Values] | Sequence[Values]) -> Values:
    parts = list(every)
    return _weighted(parts, [1.0 / len(parts)] * len(parts))


def _weighted(parts: Sequence[Values], shares: Sequence[float]) -> Values:
    return {
        tag: np.sum([share * part[tag] for part, share in zip(parts, shares, strict=True)], axis=0) for tag in parts[0]
    }


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the least squares slope of counting by adherence; 0 where the adherence is everywhere the same."""
    xs, ys = (np.array(one) for one in zip(*points, strict=True))
    spread = float(((xs - xs.mean()) ** 2).sum())
    return float(((xs - xs.mean()) * (ys - ys.mean())).sum() / spread) if spread > MIN_SPREAD else 0.0


def _shares_at(target: float, levels: Sequence[float]) -> list[float]:
    """Return the shares of a front's points that together have a level: two neighbours', or the nearest point's."""
    shares = [0.0] * len(levels)
    for index, (one, two) in enumerate(pairwise(levels)):
        if min(one, two) <= target <= max(one, two) and one != two:
            shares[index + 1] = (target - one) / (two - one)
            shares[index] = 1.0 - shares[index + 1]
            return shares
    shares[min(range(len(levels)), key=lambda index: abs(levels[index] - target))] = 1.0
    return shares


def _verdict(one: Tested, p_adjusted: float, confidence: float) -> Verdict:
    case, hypothesis = one.case, one.case.hypothesis
    low, high = one.estimate.interval(confidence)
    return Verdict(
        name=hypothesis.name,
        statement=hypothesis.statement,
        recipe=case.recipe,
        left=case.left.arm if hypothesis.num_steps else f"{case.left.arm}, {case.left.num_steps:,} steps",
        right=case.right,
        value=round(one.estimate.value, 6),
        low=round(low, 6),
        high=round(high, 6),
        p_value=one.p_value,
        p_adjusted=p_adjusted,
        detectable=round(one.estimate.detectable(confidence), 6),
        outcome=_outcome(hypothesis, (low, high), p_adjusted, confidence),
        where=one.where,
    )


def _outcome(hypothesis: Hypothesis, interval: tuple[float, float], p_adjusted: float, confidence: float) -> Outcome:
    if p_adjusted <= 1.0 - confidence:
        return "shown"
    beyond: dict[Direction, bool] = {
        "greater": interval[1] < hypothesis.threshold,
        "less": interval[0] > hypothesis.threshold,
        "two_sided": False,
    }
    return "contradicted" if beyond[hypothesis.test] else "open"
