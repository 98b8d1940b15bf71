"""The promotion gate: whether a candidate adapter becomes champion, from scores alone (no model, no registry).

A candidate is compared in pairs, same prompts and same noise, so that differences have intervals: with its base, with
its untrained tokens, and with the present champion, where that was drawn beside them. Over base and untrained tokens it
must gain surely; beside the champion it must not be worse beyond a margin. Where the champion was not drawn, the reason
says why, and two overall scores of separate evaluations are all there is: a weak claim, so it can only hold a candidate
back, and it is made only for the same suite with as many images and the same guidance.
"""

from __future__ import annotations

from typing import Any, Literal

from softalign.artifacts import ComparisonReport, Frozen, PairEvidence, TagDifference
from softalign.artifacts.paired import DEFAULT_CONFIDENCE
from softalign.config.registration import Guard, PromotionPolicy
from softalign.errors import ConfigError, DataError
from softalign.registry.gate_text import difference_text, numbers_of, sentences
from softalign.registry.sureness import detectable, widened

Comparison = Literal[">=", ">", "<="]
OVERALL = "overall"
"""The entry of a comparison's differences that is the mean over tags."""
TOLERANCE = 1e-9
"""Scores are ratios of small counts: a drop of exactly the margin must not fail by a rounding error."""


class PresentChampion(Frozen):
    """The champion at the moment of a decision: its name, and what it was made for.

    Attributes:
        pin: ``NAME/VERSION#sha256 of its weights``, as comparisons name it.
        base_model: of its adapter; empty where it is not known.
    """

    pin: str
    base_model: str = ""
    candidate_base_model: str = ""

    def why_unpaired(self, candidate: ComparisonReport) -> str:
        """Return why a candidate's comparison has no pairs with it."""
        name = self.pin.partition("#")[0]
        if self.base_model and self.candidate_base_model and self.base_model != self.candidate_base_model:
            return f"{name} is of another base model, {self.base_model}"
        if candidate.champion:
            return f"{name} is champion by now, the pairs are with {candidate.champion.partition('#')[0]}"
        return f"{name} was not drawn in this evaluation"


class Check(Frozen):
    """One condition of the gate.

    Attributes:
        name: ``overall_gain``, ``gain_significant``, ``gain_by_exchange``, ``tag_drop:TAG``, ``beats_untrained``,
            ``untrained_gain_significant``, ``untrained_gain_by_exchange``, ``not_worse_than_champion``,
            ``champion_tag_drop:TAG``, ``not_below_champion`` (not in pairs), ``min_images`` or ``guard:METRIC``.
        measured: what was measured (score points, ratios).
        threshold: what it was held against.
        comparison: how: ``measured >= threshold``, ``measured > threshold`` or ``measured <= threshold``.
        is_passed: the outcome.
        interval: of an interval's check: difference, lower and upper end.
    """

    name: str
    measured: float
    threshold: float
    comparison: Comparison
    is_passed: bool
    interval: tuple[float, float, float] | None = None

    def __str__(self) -> str:
        """Return what was found as a person says it, in score points of a hundred."""
        kind, _, subject = self.name.partition(":")
        passed, failed = sentences(kind, subject, self.measured, self.threshold, self.interval)
        return passed if self.is_passed else failed


class Decision(Frozen):
    """What the gate says.

    Attributes:
        is_promoted: whether every check passed.
        alias: the registry alias the candidate gets.
        reason: one or two sentences for people.
        checks: every condition with what was measured, in the order of the policy.
        look: how often these weights were asked about, this time included; intervals are widened by it.
        detectable: the smallest gain over the base that could have been told (ratio); None where it is not known.
    """

    is_promoted: bool
    alias: Literal["champion", "challenger"]
    reason: str
    checks: tuple[Check, ...] = ()
    look: int = 1
    detectable: float | None = None

    def to_table(self) -> dict[str, list[Any]]:
        """Return the checks as a table: its columns, and a row for each."""
        rows = [[one.name, one.is_passed, one.measured, one.comparison, one.threshold, str(one)] for one in self.checks]
        return {"columns": ["check", "passed", "measured", "comparison", "threshold", "sentence"], "data": rows}


def decide(
    candidate: ComparisonReport,
    champion: ComparisonReport | None,
    policy: PromotionPolicy,
    *,
    look: int = 1,
    present: PresentChampion | None = None,
) -> Decision:
    """Return whether a candidate becomes champion.

    Args:
        candidate: the candidate's paired comparison with base, untrained tokens and, if it was drawn, the champion.
        champion: what the current champion was registered with; None where there is none or its scores are unknown.
        policy: the thresholds.
        look: how often these weights have been asked about, this time included.
        present: the champion at this moment; None: there is none, or nothing is known of it.

    Raises:
        ConfigError: a guard is of a number that the comparison does not have.
        DataError: a comparison lacks its overall difference.
    """
    is_paired = bool(candidate.champion) and present is not None and candidate.champion == present.pin
    checks = [*_least_images(candidate, policy), *_paired_checks(candidate, policy, look)]
    if is_paired:
        checks += _champion_checks(candidate, policy, look)
    elif champion is not None and _is_same_evaluation(candidate, champion):
        checks.append(_at_least("not_below_champion", candidate.overall_adapter, champion.overall_adapter))
    checks += [_guarded(guard, candidate) for guard in policy.guards]
    is_promoted = all(check.is_passed for check in checks)
    found = detectable(_overall(candidate.adapter_vs_base, "adapter_vs_base"), candidate, look)
    beside = _beside_champion(candidate, champion, present, is_paired=is_paired)
    said = (_reason(candidate, checks), _surely(found, look), candidate.stopping_text(), beside)
    return Decision(
        is_promoted=is_promoted,
        alias="champion" if is_promoted else "challenger",
        reason=" ".join(part for part in said if part),
        checks=tuple(checks),
        look=look,
        detectable=found or None,
    )


def _least_images(candidate: ComparisonReport, policy: PromotionPolicy) -> list[Check]:
    if not policy.min_images:
        return []
    return [_at_least("min_images", candidate.num_images_per_arm, policy.min_images)]


def _paired_checks(candidate: ComparisonReport, policy: PromotionPolicy, look: int) -> list[Check]:
    gain = widened(_overall(candidate.adapter_vs_base, "adapter_vs_base"), candidate, look)
    checks = [_at_least("overall_gain", gain.difference, policy.min_overall_gain)]
    if policy.requires_significant_gain:
        checks.append(_check("gain_significant", gain.ci_low, ">", 0.0, gain))
        checks += _too_few_prompts("gain_by_exchange", gain, candidate.over_base, candidate, look)
    checks += _tag_checks("tag_drop", candidate.adapter_vs_base, policy.max_tag_drop)
    if policy.must_beat_untrained:
        over = widened(_overall(candidate.adapter_vs_untrained, "adapter_vs_untrained"), candidate, look)
        if policy.requires_significant_gain and over.difference > 0.0:
            checks.append(_check("untrained_gain_significant", over.ci_low, ">", 0.0, over))
            checks += _too_few_prompts("untrained_gain_by_exchange", over, candidate.over_untrained, candidate, look)
        else:
            checks.append(_check("beats_untrained", over.difference, ">", 0.0))
    return checks


def _too_few_prompts(
    name: str, gain: TagDifference, evidence: PairEvidence | None, candidate: ComparisonReport, look: int
) -> list[Check]:
    """Return the check that fails where the interval is certain and the exact p-value is not, as with few prompts."""
    level = (1.0 - (candidate.confidence or DEFAULT_CONFIDENCE)) / look
    if evidence is None or gain.ci_low <= 0.0 or evidence.p_value <= level:
        return []
    return [_check(name, evidence.p_value, "<=", round(level, 6))]


def _champion_checks(candidate: ComparisonReport, policy: PromotionPolicy, look: int) -> list[Check]:
    beside = widened(_overall(candidate.adapter_vs_champion, "adapter_vs_champion"), candidate, look)
    margin = -policy.max_drop_below_champion
    return [
        _at_least("not_worse_than_champion", beside.ci_low, margin, beside),
        *_tag_checks("champion_tag_drop", candidate.adapter_vs_champion, policy.max_tag_drop_below_champion),
    ]


def _tag_checks(kind: str, differences: tuple[TagDifference, ...], margin: float) -> list[Check]:
    return [
        _at_least(f"{kind}:{entry.tag}", entry.difference, -margin) for entry in differences if entry.tag != OVERALL
    ]


def _guarded(guard: Guard, candidate: ComparisonReport) -> Check:
    numbers = numbers_of(candidate)
    if guard.metric not in numbers:
        raise ConfigError(
            "A guard is of a number that the comparison does not have.",
            expected=f"one of {', '.join(numbers)}",
            found=guard.metric,
            where="register.policy.guards",
            fix="correct the guard; finished work is kept",
        )
    measured, name = numbers[guard.metric], f"guard:{guard.metric}"
    if guard.at_least is not None:
        return _at_least(name, measured, guard.at_least)
    return _check(name, measured, "<=", guard.at_most or 0.0)


def _at_least(name: str, measured: float, threshold: float, entry: TagDifference | None = None) -> Check:
    return _check(name, measured, ">=", threshold, entry)


def _check(
    name: str, measured: float, comparison: Comparison, threshold: float, entry: TagDifference | None = None
) -> Check:
    is_passed = {
        ">=": measured >= threshold - TOLERANCE,
        ">": measured > threshold + TOLERANCE,
        "<=": measured <= threshold + TOLERANCE,
    }[comparison]
    return Check(
        name=name,
        measured=measured,
        threshold=threshold,
        comparison=comparison,
        is_passed=is_passed,
        interval=_interval(entry),
    )


def _interval(entry: TagDifference | None) -> tuple[float, float, float] | None:
    return None if entry is None else (entry.difference, entry.ci_low, entry.ci_high)


def _overall(differences: tuple[TagDifference, ...], where: str) -> TagDifference:
    for entry in differences:
        if entry.tag == OVERALL:
            return entry
    raise DataError(
        "A comparison has no overall difference, so it cannot be judged.",
        expected=f"an entry with tag {OVERALL!r}",
        found=f"tags {', '.join(entry.tag for entry in differences) or 'none'}",
        where=where,
        fix="run the evaluation again with this version",
    )


def _is_same_evaluation(candidate: ComparisonReport, champion: ComparisonReport) -> bool:
    evaluations = {(one.suite, one.num_images_per_arm, one.guidance_scale) for one in (candidate, champion)}
    return len(evaluations) == 1


def _guidance(comparison: ComparisonReport) -> str:
    return "" if comparison.guidance_scale is None else f" at guidance {comparison.guidance_scale:g}"


def _reason(candidate: ComparisonReport, checks: list[Check]) -> str:
    gain = _overall(candidate.adapter_vs_base, "adapter_vs_base")
    measured = (
        f"{candidate.overall_adapter * 100:.1f} points on {candidate.suite}, {gain.difference * 100:+.1f} over base "
        f"(paired, interval {gain.ci_low * 100:+.1f} to {gain.ci_high * 100:+.1f})"
    )
    failed = [check for check in checks if not check.is_passed]
    if failed:
        return f"Not promoted: {'; '.join(str(check) for check in failed)}. It has {measured}."
    return f"Promoted: it passes all {len(checks)} checks of the gate, with {measured}."


def _surely(found: float, look: int) -> str:
    if not found:
        return "No image is judged otherwise than the base's, so nothing can be told of a gain."
    told = f"So many images tell a gain of {found * 100:.1f} points or more in four cases of five."
    if look == 1:
        return told
    return f"{told} It is look {look} at these weights: intervals are wider by Bonferroni's rule."


def _beside_champion(
    candidate: ComparisonReport,
    champion: ComparisonReport | None,
    present: PresentChampion | None,
    *,
    is_paired: bool,
) -> str:
    """Return how the candidate stands beside the champion, or why that is not said in pairs."""
    if is_paired:
        beside = _overall(candidate.adapter_vs_champion, "adapter_vs_champion")
        return f"Beside champion {candidate.champion.partition('#')[0]}: {difference_text(beside)}, in pairs."
    why = "" if present is None else f" in pairs: {present.why_unpaired(candidate)}"
    if champion is None:
        return f"Not compared with the champion{why}." if why else "There is no scored champion to compare with."
    if not _is_same_evaluation(candidate, champion):
        return (
            f"Not compared with the champion, which was scored on {champion.suite} with "
            f"{champion.num_images_per_arm} images per arm{_guidance(champion)}{why and f', nor{why}'}."
        )
    weak = f"The champion has {champion.overall_adapter * 100:.1f} (unpaired: a weak comparison)."
    return f"{weak} Not compared{why}." if why else weak
