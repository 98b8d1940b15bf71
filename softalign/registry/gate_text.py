"""What the gate found, as a person says it: in score points of a hundred."""

from __future__ import annotations

from collections.abc import Iterator

from softalign.artifacts import ComparisonReport, TagDifference

Interval = tuple[float, float, float]


TEXTS = {
    "overall_gain": (
        "the gain over the base is {found:+.1f} points, of at least {asked:+.1f} asked",
        "the gain over the base is {found:+.1f} points, less than the {asked:+.1f} asked",
    ),
    "gain_significant": (
        "it is better than the base for certain: {reach}, above zero",
        "not enough to say it is better than the base: {reach}",
    ),
    "gain_by_exchange": (
        "exchanging the arms of prompts gives such a gain by luck in {found:.1f} cases of 100",
        "too few prompts to say it is better than the base: exchanging the arms of prompts gives such a gain by luck "
        "in {found:.1f} cases of 100, where {asked:.1f} are allowed",
    ),
    "untrained_gain_by_exchange": (
        "exchanging the arms of prompts gives such a gain over untrained tokens by luck in {found:.1f} cases of 100",
        "too few prompts to say it is better than untrained tokens: exchanging the arms of prompts gives such a gain "
        "by luck in {found:.1f} cases of 100, where {asked:.1f} are allowed",
    ),
    "tag_drop": (
        "{subject} changed by {found:+.1f} points, where {asked:+.1f} is allowed",
        "{subject} fell by {below:.1f} points, more than the {allowed:.1f} allowed",
    ),
    "beats_untrained": (
        "it scores {found:+.1f} points over untrained tokens",
        "it does not beat untrained tokens ({found:+.1f} points)",
    ),
    "untrained_gain_significant": (
        "it is better than untrained tokens for certain: {reach}, above zero",
        "not enough to say it is better than untrained tokens: {reach}",
    ),
    "not_worse_than_champion": (
        "it is not worse than the champion: {reach}, where {asked:+.1f} is allowed",
        "not enough to say it is as good as the champion: {reach}, where {asked:+.1f} is allowed",
    ),
    "champion_tag_drop": (
        "{subject} is {found:+.1f} points beside the champion, where {asked:+.1f} is allowed",
        "{subject} is {below:.1f} points below the champion, more than the {allowed:.1f} allowed",
    ),
    "not_below_champion": (
        "it scores {found:.1f}, not below the champion's {asked:.1f}",
        "it scores {found:.1f}, below the champion's {asked:.1f}",
    ),
    "min_images": (
        "{measured:.0f} images an arm are enough, of {threshold:.0f} asked",
        "too few images: {measured:.0f} an arm, of {threshold:.0f} asked",
    ),
    "guard": ("{subject} is {number}, within {bound}", "{subject} is {number}, outside of {bound}"),
}
"""How a check is said where it passed, and where it failed; numbers are points."""
UNKNOWN = "{what} is {number} beside {bound}"
"""Of a check that another version made."""


def sentences(kind: str, subject: str, measured: float, threshold: float, interval: Interval | None) -> tuple[str, str]:
    """Return how a check is said where it passed, and where it failed.

    Args:
        kind: of the check.
        subject: the tag, or a guard's metric.
        measured: what was measured, a ratio.
        threshold: what it was held against.
        interval: difference, lower and upper end; None where earlier versions kept none.
    """
    reach = _reach(interval) if interval else f"its interval begins at {measured * 100:+.1f} points"
    words = {"subject": subject, "reach": reach, "number": f"{measured:g}", "bound": f"{threshold:g}"}
    numbers = {"found": measured * 100, "asked": threshold * 100, "below": -measured * 100, "allowed": -threshold * 100}
    passed, failed = TEXTS.get(kind, (UNKNOWN, f"{UNKNOWN}, which does not pass"))
    given = {
        **words,
        **numbers,
        "measured": measured,
        "threshold": threshold,
        "what": f"{kind}{subject and ':'}{subject}",
    }
    return passed.format(**given), failed.format(**given)


def difference_text(entry: TagDifference) -> str:
    """Return a difference and how far its interval reaches."""
    return _reach((entry.difference, entry.ci_low, entry.ci_high))


def numbers_of(comparison: ComparisonReport) -> dict[str, float]:
    """Return every number of a comparison that a guard may name."""
    names = ("overall_base", "overall_untrained", "overall_adapter", "overall_champion")
    found = {name: getattr(comparison, name) for name in (*names, "num_images_per_arm", "denoiser_calls_per_image")}
    numbers = {name: float(value) for name, value in found.items() if value is not None}
    return numbers | dict(_differences(comparison))


def _differences(comparison: ComparisonReport) -> Iterator[tuple[str, float]]:
    for pair in ("adapter_vs_base", "adapter_vs_untrained", "adapter_vs_champion"):
        for entry in getattr(comparison, pair):
            yield f"{pair}/{entry.tag}", entry.difference
            yield f"{pair}/{entry.tag}/ci_low", entry.ci_low
            yield f"{pair}/{entry.tag}/ci_high", entry.ci_high


def _reach(interval: Interval) -> str:
    difference, low, high = (value * 100 for value in interval)
    return f"{difference:+.1f} points, and the interval reaches from {low:+.1f} to {high:+.1f}"
