"""Two registered versions side by side: in pairs where both were drawn from the same prompts and noise."""

from __future__ import annotations

from collections.abc import Iterable

from softalign.artifacts import ComparisonReport, Frozen, TagDifference
from softalign.config.families import judge_of
from softalign.errors import CompatibilityError, MissingInputError
from softalign.evaluation.intervals import OVERALL, PromptCounts, counts_of, paired_intervals
from softalign.registry import RegisteredScores, Verdict, parse_reference, registered_scores

NUM_BOOTSTRAP = 2000
CONFIDENCE = 0.95


class VersionComparison(Frozen):
    """What two registered versions scored; ratios.

    Attributes:
        a: the first, ``NAME/VERSION``.
        b: the second.
        suite: of both.
        overall_a: its overall score, as is ``overall_b``.
        differences: b - a by tag and overall, paired by prompt, with 95 % intervals; empty where not paired.
        why_unpaired: in a sentence; empty where they are paired.
        num_images: of each.
        judge_a: what the first one's scores are called by who judged the images (``judge_of``), as is ``judge_b``.
    """

    a: str
    b: str
    suite: str
    overall_a: float
    overall_b: float
    differences: tuple[TagDifference, ...]
    why_unpaired: str
    num_images: int
    judge_a: str
    judge_b: str

    def to_text(self) -> str:
        """Return it for people, in points of a hundred."""
        scores = (
            f"{self.a}: {self.overall_a * 100:.1f} points on {self.suite} ({self.judge_a})\n"
            f"{self.b}: {self.overall_b * 100:.1f} points ({self.judge_b})"
        )
        if self.why_unpaired:
            return f"{scores}\nNot in pairs, so how sure the difference is cannot be said: {self.why_unpaired}."
        lines = [
            f"  {entry.tag:<14} {entry.difference * 100:+6.1f}  "
            f"(interval {entry.ci_low * 100:+.1f} to {entry.ci_high * 100:+.1f})"
            for entry in self.differences
        ]
        return "\n".join([scores, f"{self.b} minus {self.a}, in pairs of {self.num_images:,} images, 95 %:", *lines])


def compare_versions(a: str, b: str, tracking_uri: str | None = None) -> VersionComparison:
    """Compare two registered versions by what they were registered with; nothing is drawn.

    Args:
        a: ``NAME/VERSION`` or ``NAME@ALIAS``.
        b: the other one; the differences are b - a.
        tracking_uri: of the registry.

    Raises:
        ConfigError: not a reference.
        RegistryError: no such model or version.
        MissingInputError: a version carries no scores.
        CompatibilityError: they were scored on different suites.
    """
    first, second = (registered_scores(parse_reference(text), tracking_uri) for text in (a, b))
    one, other = _comparison(first), _comparison(second)
    if one.suite != other.suite:
        raise CompatibilityError(
            "The versions were scored on different suites.",
            expected=f"{one.suite}, as {first.reference}",
            found=f"{other.suite} ({second.reference})",
            fix="evaluate both on one suite and register them again",
        )
    why = _why_unpaired(first, second)
    return VersionComparison(
        a=str(first.reference),
        b=str(second.reference),
        suite=one.suite,
        overall_a=one.overall_adapter,
        overall_b=other.overall_adapter,
        differences=() if why else _differences(first.verdicts, second.verdicts),
        why_unpaired=why,
        num_images=one.num_images_per_arm,
        judge_a=judge_of(one.suite, one.detector),
        judge_b=judge_of(other.suite, other.detector),
    )


def _comparison(scores: RegisteredScores) -> ComparisonReport:
    if scores.comparison is None:
        raise MissingInputError(
            "This version carries no scores.",
            expected="a version that `softalign register` made",
            where=str(scores.reference),
            fix="evaluate and register its adapter",
        )
    return scores.comparison


def _why_unpaired(first: RegisteredScores, second: RegisteredScores) -> str:
    """Return why two versions' images are not the same prompts and noise; empty where they are."""
    one, other = _comparison(first), _comparison(second)
    if one.detector != other.detector:
        return "their images were judged by different detectors, which may be the whole of it"
    if not one.parents or one.parents[:1] != other.parents[:1]:  # the base arm's report, by its digest
        return "their base arms differ (prompts, seed, images a prompt, sampling or base model)"
    names = [[(verdict.filename, verdict.tag) for verdict in scores.verdicts] for scores in (first, second)]
    if not names[0] or names[0] != names[1]:
        return "the verdicts on single images were not kept for both"
    return ""


def _differences(first: Iterable[Verdict], second: Iterable[Verdict]) -> tuple[TagDifference, ...]:
    intervals = paired_intervals(
        _counts(second), _counts(first), num_bootstrap=NUM_BOOTSTRAP, confidence=CONFIDENCE, seed=0
    )
    found = [
        TagDifference(tag=tag, difference=one.value, ci_low=one.low, ci_high=one.high) for tag, one in intervals.items()
    ]
    return tuple(sorted(found, key=lambda entry: entry.tag != OVERALL))


def _counts(verdicts: Iterable[Verdict]) -> dict[str, PromptCounts]:
    return counts_of((one.tag, one.filename.partition("/")[0], one.is_correct) for one in verdicts)
