"""What the ending of a run says of p-values, wins and losses, clear tags, and of a sweep over guidance."""

from __future__ import annotations

from softalign.artifacts import PairEvidence, TagDifference, TaskStatistics
from softalign.artifacts.fronts import GuidanceFronts
from softalign.artifacts.paired import Standing, standing

OVERALL = "overall"


def shown_columns(one: TaskStatistics | None) -> str:
    """Return a line's p-value, a tag's corrected for the number of tags, and the images that were won and lost."""
    if one is None:
        return ""
    return f"  {one.shown_p:6.4f}  {one.wins}:{one.losses}"


def evidence(found: PairEvidence | None) -> list[str]:
    """Return what the pairs with the base show, where the comparison says it."""
    if found is None:
        return []
    return [
        f"It has {found.wins} images right that the base has wrong, and {found.losses} the other way round "
        f"(p = {found.p_value:.4f}); so many images tell {found.detectable * 100:.1f} points in four cases of five."
    ]


def standing_of(gain: TagDifference, shown: PairEvidence | None, confidence: float) -> Standing:
    """Return what an overall gain says beside its p-value, where the comparison has one."""
    return standing(gain, None if shown is None else shown.p_value, confidence)


def why_unclear(gain: TagDifference) -> str:
    """Return why a gain cannot be told from zero, as the end of a sentence."""
    return ", which includes zero" if gain.ci_low <= 0.0 <= gain.ci_high else ", but luck gives as much too often (p)"


def tags(
    gains: tuple[TagDifference, ...],
    statistics: tuple[TaskStatistics, ...],
    confidence: float,
    fronts: GuidanceFronts | None,
) -> list[str]:
    """Return which tags gained or lost for certain, and what is left of the gain at each arm's best guidance."""
    return [_clear_tags(gains, statistics, confidence), *_sweep(fronts)]


def _clear_tags(gains: tuple[TagDifference, ...], statistics: tuple[TaskStatistics, ...], confidence: float) -> str:
    """Return which tags gained or lost for certain, the largest difference first."""
    p_values = {one.tag: one.shown_p for one in statistics}
    kinds = {gain.tag: standing(gain, p_values.get(gain.tag), confidence) for gain in gains if gain.tag != OVERALL}

    def listed(kind: str) -> str:
        chosen = [gain for gain in gains if kinds.get(gain.tag) == kind]
        chosen.sort(key=lambda gain: -abs(gain.difference))
        return ", ".join(f"{gain.tag} ({gain.difference * 100:+.1f})" for gain in chosen)

    better, worse = listed("better"), listed("worse")
    if not better and not worse:
        return "No single tag gained or lost clearly."
    return f"Clearly better: {better or 'no tag'}. Clearly worse: {worse or 'no tag'}."


def _sweep(fronts: GuidanceFronts | None) -> list[str]:
    """Return what is left of the gain where adapter and base have each the guidance that suits them best."""
    if fronts is None:
        return []
    gain = fronts.adapter_over_base_at_best
    return [
        f"Each at its best guidance, {fronts.best_adapter:g} and {fronts.best_base:g}, the adapter has "
        f"{gain.difference * 100:+.1f} points over the base, {gain.ci_low * 100:.1f} to {gain.ci_high * 100:.1f}."
    ]
