"""What the ending of a run says of p-values, wins and losses, clear tags, and of a sweep over guidance."""

from __future__ import annotations

from typing import Literal

from softalign.artifacts import PairEvidence, TagDifference, TaskStatistics
from softalign.artifacts.fronts import GuidanceFronts

OVERALL = "overall"


def shown_columns(one: TaskStatistics | None) -> str:
    """Return a line's p-value, a tag's corrected for the number of tags, and the images that were won and lost."""
    if one is None:
        return ""
    return f"  {one.p_value if one.p_adjusted is None else one.p_adjusted:6.4f}  {one.wins}:{one.losses}"


def evidence(found: PairEvidence | None) -> list[str]:
    """Return what the pairs with the base show, where the comparison says it."""
    if found is None:
        return []
    return [
        f"It has {found.wins} images right that the base has wrong, and {found.losses} the other way round "
        f"(p = {found.p_value:.4f}); so many images tell {found.detectable * 100:.1f} points in four cases of five."
    ]


def sweep(fronts: GuidanceFronts | None) -> list[str]:
    """Return what is left of the gain where adapter and base have each the guidance that suits them best."""
    if fronts is None:
        return []
    gain = fronts.adapter_over_base_at_best
    return [
        f"Each at its best guidance, {fronts.best_adapter:g} and {fronts.best_base:g}, the adapter has "
        f"{gain.difference * 100:+.1f} points over the base, {gain.ci_low * 100:.1f} to {gain.ci_high * 100:.1f}."
    ]


def outcome(difference: TagDifference) -> Literal["more", "less", "unclear"]:
    """Return what a difference says: an interval that includes zero says nothing."""
    if difference.ci_low > 0.0:
        return "more"
    return "less" if difference.ci_high < 0.0 else "unclear"


def clear_tags(gains: tuple[TagDifference, ...]) -> str:
    """Return which tags gained or lost for certain, the largest difference first."""
    tags = [gain for gain in gains if gain.tag != OVERALL]

    def listed(kind: str) -> str:
        chosen = sorted((gain for gain in tags if outcome(gain) == kind), key=lambda gain: -abs(gain.difference))
        return ", ".join(f"{gain.tag} ({gain.difference * 100:+.1f})" for gain in chosen)

    better, worse = listed("more"), listed("less")
    if not better and not worse:
        return "No single tag gained or lost clearly."
    return f"Clearly better: {better or 'no tag'}. Clearly worse: {worse or 'no tag'}."
