"""What a paired difference says: the one place that every page, card and ending asks."""

from __future__ import annotations

from typing import Literal

from softalign.artifacts.scores import TagDifference

DEFAULT_CONFIDENCE = 0.95
"""Of intervals whose records do not say theirs: the recipes' default."""
Standing = Literal["better", "worse", "unclear"]


def standing(difference: TagDifference, p_value: float | None = None, confidence: float | None = None) -> Standing:
    """Return what a paired difference says.

    It is unclear where its interval includes zero, and where exchanging the arms of prompts gives as much by luck more
    often than the level allows: intervals of one or two prompts a tag have next to no width.

    Args:
        difference: with its interval.
        p_value: beside it (``TaskStatistics.shown_p``); None: the record has none.
        confidence: of the interval; None: the record does not say it.
    """
    level = 1.0 - (confidence or DEFAULT_CONFIDENCE)
    if (p_value is not None and p_value > level) or difference.ci_low <= 0.0 <= difference.ci_high:
        return "unclear"
    return "better" if difference.ci_low > 0.0 else "worse"
