"""How sure a comparison is: intervals that widen with every look at the same weights, and what could have been told.

Who asks again and again finds a lucky answer at last. So the k-th look is judged at Bonferroni's level for k looks,
1 - (1 - confidence) / k (O. J. Dunn, Multiple comparisons among means, JASA 56, 1961). Earlier looks keep the level
they had, so this slows the search for a lucky answer; it does not bound it for any number of looks. Bootstrap intervals
are widened about their estimate by the ratio of the normal quantiles of the two levels.
"""

from __future__ import annotations

from statistics import NormalDist

from softalign.artifacts import ComparisonReport, TagDifference

DEFAULT_CONFIDENCE = 0.95
"""Of records that do not say theirs: the recipes' default."""
POWER = 0.8
"""With which a minimum detectable difference is found (J. Cohen, Statistical power analysis, 1988)."""


def confidence_at(comparison: ComparisonReport, look: int) -> float:
    """Return the confidence of one look among ``look``."""
    return 1.0 - (1.0 - (comparison.confidence or DEFAULT_CONFIDENCE)) / look


def widened(entry: TagDifference, comparison: ComparisonReport, look: int) -> TagDifference:
    """Return a difference with the interval it has at its n-th look."""
    ratio = _quantile(confidence_at(comparison, look)) / _quantile(confidence_at(comparison, 1))
    low = entry.difference - (entry.difference - entry.ci_low) * ratio
    high = entry.difference + (entry.ci_high - entry.difference) * ratio
    return entry.model_copy(update={"ci_low": low, "ci_high": high}) if look > 1 else entry


def detectable(entry: TagDifference, comparison: ComparisonReport, look: int) -> float:
    """Return the smallest true difference that this many images would show at their n-th look (``POWER``, a ratio)."""
    error = standard_error(entry.ci_low, entry.ci_high, confidence_at(comparison, 1))
    return detectable_difference(error, confidence_at(comparison, look))


def standard_error(low: float, high: float, confidence: float) -> float:
    """Return the standard error that an interval stands for: half of it over z."""
    return (high - low) / 2.0 / _quantile(confidence)


def detectable_difference(error: float, confidence: float) -> float:
    """Return the smallest true difference that is found in four cases of five: z of the level + z of the power errors.

    Args:
        error: the difference's standard error.
        confidence: of the two-sided interval that must exclude 0.
    """
    return error * (_quantile(confidence) + NormalDist().inv_cdf(POWER))


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2.0)
