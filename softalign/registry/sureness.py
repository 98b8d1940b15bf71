"""How sure a comparison is: intervals that widen with every look at the same weights, and what could have been told.

Who asks again and again finds a lucky answer at last. So the k-th look is judged at Bonferroni's level for k looks,
1 - (1 - confidence) / k (O. J. Dunn, Multiple comparisons among means, JASA 56, 1961). Earlier looks keep the level
they had, so this slows the search for a lucky answer; it does not bound it for any number of looks. Bootstrap intervals
are widened about their estimate by the ratio of the normal quantiles of the two levels; after some rounds of an
evaluation that may stop early (``spending``) by that of the boundary and the quantile.
"""

from __future__ import annotations

from statistics import NormalDist

from softalign.artifacts import ComparisonReport, Stopping, TagDifference
from softalign.artifacts.paired import DEFAULT_CONFIDENCE

POWER = 0.8
"""With which a minimum detectable difference is found (J. Cohen, Statistical power analysis, 1988)."""


def critical_value(confidence: float, stopping: Stopping | None = None, look: int = 1) -> float:
    """Return how many standard errors an interval reaches to each side.

    Args:
        confidence: of all looks together.
        stopping: of images in rounds, whose intervals hold in every round at once; None: there were none.
        look: which decision about the same weights it is.
    """
    confidence = 1.0 - (1.0 - confidence) / look
    if stopping is None:
        return NormalDist().inv_cdf(0.5 + confidence / 2.0)
    from softalign.registry.spending import equal_boundaries  # loads SciPy

    return equal_boundaries(stopping.of_rounds, (1.0 - confidence) / 2.0)[stopping.rounds - 1]


def stopping_after(rounds: int, of_rounds: int, confidence: float) -> Stopping:
    """Return what stopping after some of so many rounds makes of intervals."""
    from softalign.registry.spending import equal_boundaries

    boundary = equal_boundaries(of_rounds, (1.0 - confidence) / 2.0)[rounds - 1]
    widening = boundary / critical_value(confidence)
    return Stopping(rounds=rounds, of_rounds=of_rounds, boundary=round(boundary, 6), widening=round(widening, 6))


def widened(entry: TagDifference, comparison: ComparisonReport, look: int) -> TagDifference:
    """Return a difference with the interval it has at its n-th look."""
    ratio = _critical(comparison, look) / _critical(comparison, 1)
    low = entry.difference - (entry.difference - entry.ci_low) * ratio
    high = entry.difference + (entry.ci_high - entry.difference) * ratio
    return entry.model_copy(update={"ci_low": low, "ci_high": high}) if look > 1 else entry


def detectable(entry: TagDifference, comparison: ComparisonReport, look: int) -> float:
    """Return the smallest true difference that this many images would show at their n-th look (``POWER``, a ratio)."""
    error = standard_error(entry.ci_low, entry.ci_high, _critical(comparison, 1))
    return detectable_difference(error, _critical(comparison, look))


def standard_error(low: float, high: float, critical: float) -> float:
    """Return the standard error that an interval stands for: half of it over its critical value."""
    return (high - low) / 2.0 / critical


def detectable_difference(error: float, critical: float) -> float:
    """Return the smallest true difference that is found in four cases of five: critical value + z of the power errors.

    Args:
        error: the difference's standard error.
        critical: how many errors the interval that must exclude 0 reaches to each side.
    """
    return error * (critical + NormalDist().inv_cdf(POWER))


def _critical(comparison: ComparisonReport, look: int) -> float:
    return critical_value(comparison.confidence or DEFAULT_CONFIDENCE, comparison.stopping, look)
