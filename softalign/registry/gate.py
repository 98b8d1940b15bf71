"""The promotion gate: whether a candidate adapter becomes champion, from scores alone (no model, no registry).

Against its own base and its own untrained tokens a candidate is compared in pairs: same prompts, same noise, so the
difference has an interval. Against the current champion there are only two overall scores of separate evaluations.
That comparison is unpaired and has no interval: it is a weak claim, so it can only hold a candidate back (its overall
score must not be below the champion's), never promote it, and a tie goes to the candidate. It is made only where the
two were scored on the same suite with as many images per arm and the same guidance; otherwise the reason says that it
was not made.
"""

from __future__ import annotations

from typing import Literal

from softalign.artifacts import ComparisonReport, Frozen, TagDifference
from softalign.config.evaluation import PromotionPolicy
from softalign.errors import DataError

OVERALL = "overall"
"""The entry of a comparison's differences that is the mean over tags."""
TOLERANCE = 1e-9
"""Scores are ratios of small counts: a drop of exactly the margin must not fail by a rounding error."""


class Check(Frozen):
    """One condition of the gate.

    Attributes:
        name: ``overall_gain``, ``gain_significant``, ``tag_drop:TAG``, ``beats_untrained``,
            ``untrained_gain_significant`` or ``not_below_champion``.
        measured: what was measured (score points, ratios).
        threshold: what it was held against.
        comparison: how: ``measured >= threshold`` or ``measured > threshold``.
        is_passed: the outcome.
    """

    name: str
    measured: float
    threshold: float
    comparison: Literal[">=", ">"]
    is_passed: bool

    def __str__(self) -> str:
        """Return what was found as a person says it, in score points of a hundred."""
        kind, _, tag = self.name.partition(":")
        found, asked = self.measured * 100, self.threshold * 100
        passed, failed = {
            "overall_gain": (
                f"the gain over the base is {found:+.1f} points, of at least {asked:+.1f} asked",
                f"the gain over the base is {found:+.1f} points, less than the {asked:+.1f} asked",
            ),
            "gain_significant": (
                f"the gain over the base is certain: its interval begins at {found:+.1f} points, above zero",
                f"the gain over the base may be chance: its interval begins at {found:+.1f} points, not above zero",
            ),
            "tag_drop": (
                f"{tag} changed by {found:+.1f} points, where {asked:+.1f} is allowed",
                f"{tag} fell by {-found:.1f} points, more than the {-asked:.1f} allowed",
            ),
            "beats_untrained": (
                f"it scores {found:+.1f} points over untrained tokens",
                f"it does not beat untrained tokens ({found:+.1f} points)",
            ),
            "untrained_gain_significant": (
                f"the interval of the gain over untrained tokens begins at {found:+.1f} points, above zero",
                "the gain over untrained tokens may be chance: its interval begins at "
                f"{found:+.1f} points, not above zero",
            ),
            "not_below_champion": (
                f"it scores {found:.1f}, not below the champion's {asked:.1f}",
                f"it scores {found:.1f}, below the champion's {asked:.1f}",
            ),
        }[kind]
        return passed if self.is_passed else failed


class Decision(Frozen):
    """What the gate says.

    Attributes:
        is_promoted: whether every check passed.
        alias: the registry alias the candidate gets.
        reason: one or two sentences for people.
        checks: every condition with what was measured, in the order of the policy.
    """

    is_promoted: bool
    alias: Literal["champion", "challenger"]
    reason: str
    checks: tuple[Check, ...]


def decide(candidate: ComparisonReport, champion: ComparisonReport | None, policy: PromotionPolicy) -> Decision:
    """Return whether a candidate becomes champion.

    Args:
        candidate: the candidate's paired comparison with its base and its untrained tokens.
        champion: the same of the current champion; None where there is no champion or its scores are unknown.
        policy: the thresholds.

    Raises:
        DataError: a comparison lacks its overall difference.
    """
    checks = [*_paired_checks(candidate, policy)]
    is_comparable = champion is not None and _is_same_evaluation(candidate, champion)
    if champion is not None and is_comparable:
        checks.append(_at_least("not_below_champion", candidate.overall_adapter, champion.overall_adapter))
    is_promoted = all(check.is_passed for check in checks)
    return Decision(
        is_promoted=is_promoted,
        alias="champion" if is_promoted else "challenger",
        reason=_reason(candidate, champion, checks, is_comparable=is_comparable),
        checks=tuple(checks),
    )


def _paired_checks(candidate: ComparisonReport, policy: PromotionPolicy) -> list[Check]:
    gain = _overall(candidate.adapter_vs_base, "adapter_vs_base")
    checks = [_at_least("overall_gain", gain.difference, policy.min_overall_gain)]
    if policy.requires_significant_gain:
        checks.append(_above("gain_significant", gain.ci_low, 0.0))
    for entry in candidate.adapter_vs_base:
        if entry.tag != OVERALL:
            checks.append(_at_least(f"tag_drop:{entry.tag}", entry.difference, -policy.max_tag_drop))
    if policy.must_beat_untrained:
        over_untrained = _overall(candidate.adapter_vs_untrained, "adapter_vs_untrained")
        if policy.requires_significant_gain and over_untrained.difference > 0.0:
            checks.append(_above("untrained_gain_significant", over_untrained.ci_low, 0.0))
        else:
            checks.append(_above("beats_untrained", over_untrained.difference, 0.0))
    return checks


def _at_least(name: str, measured: float, threshold: float) -> Check:
    is_passed = measured >= threshold - TOLERANCE
    return Check(name=name, measured=measured, threshold=threshold, comparison=">=", is_passed=is_passed)


def _above(name: str, measured: float, threshold: float) -> Check:
    is_passed = measured > threshold + TOLERANCE
    return Check(name=name, measured=measured, threshold=threshold, comparison=">", is_passed=is_passed)


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


def _reason(
    candidate: ComparisonReport, champion: ComparisonReport | None, checks: list[Check], *, is_comparable: bool
) -> str:
    gain = _overall(candidate.adapter_vs_base, "adapter_vs_base")
    measured = (
        f"{candidate.overall_adapter * 100:.1f} points on {candidate.suite}, {gain.difference * 100:+.1f} over base "
        f"(paired, interval {gain.ci_low * 100:+.1f} to {gain.ci_high * 100:+.1f})"
    )
    failed = [check for check in checks if not check.is_passed]
    if failed:
        sentence = f"Not promoted: {'; '.join(str(check) for check in failed)}. It has {measured}."
    else:
        sentence = f"Promoted: it passes all {len(checks)} checks of the gate, with {measured}."
    if champion is None:
        return f"{sentence} There is no scored champion to compare with."
    if not is_comparable:
        return (
            f"{sentence} Not compared with the champion, which was scored on {champion.suite} with "
            f"{champion.num_images_per_arm} images per arm{_guidance(champion)}."
        )
    return f"{sentence} The champion has {champion.overall_adapter * 100:.1f} (unpaired: a weak comparison)."
