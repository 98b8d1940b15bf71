"""What a difference over prompts and training seeds shows: intervals and p-values for a handful of seeds.

Seeds and prompts are both samples, and crossed: every seed is scored on every prompt. Resampling seeds, then prompts,
then images (the pigeonhole bootstrap, A. B. Owen 2007) gives a mean's variance as A + B, where A is that of the seeds'
means over their number, and B that of the prompts' means over theirs; a prompt's images are in both. Of three seeds
the resamples themselves are too few and too alike: percentiles raise 10 to 15 false alarms in a hundred where seeds
differ by four points. So A and B are computed with n - 1 instead of resampled, and their sum has the degrees of freedom
of F. E. Satterthwaite (1946) and Student's quantiles. `tests/bench/study_power.py` prints how often that errs and what
it finds.

Shape legend: S seeds, P prompts of one tag.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softalign.registry.sureness import POWER
from softalign.study.hypotheses import Direction

Values = Mapping[str, NDArray[np.float64]]
"""Of each tag a ratio for each seed and prompt, (S, P); a reference without seeds has one row."""


@dataclass(frozen=True)
class Estimate:
    """A weighted sum of tags' means, with its standard error and degrees of freedom.

    Attributes:
        value: the sum (ratio).
        error: its standard error, over seeds and prompts.
        freedom: degrees of freedom of the error.
        num_seeds: how many seeds it rests on; of one nothing is known of how much seeds matter.
    """

    value: float
    error: float
    freedom: float
    num_seeds: int

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided interval."""
        half = self.error * _t_quantile(0.5 + confidence / 2.0, self.freedom)
        return self.value - half, self.value + half

    def p_value(self, test: Direction, threshold: float = 0.0) -> float:
        """Return how often nothing but chance gives as much: of a value of at most (at least, just) ``threshold``."""
        distance = self.value - threshold
        if self.error == 0.0:
            is_as_claimed = distance > 0 if test == "greater" else distance < 0 if test == "less" else distance != 0
            return 0.0 if is_as_claimed else 1.0
        if test == "two_sided":
            return min(1.0, 2.0 * _t_tail(abs(distance) / self.error, self.freedom))
        return _t_tail((distance if test == "greater" else -distance) / self.error, self.freedom)

    def detectable(self, confidence: float) -> float:
        """Return the smallest true difference from 0 whose interval excludes 0 in four cases of five (ratio)."""
        quantiles = (_t_quantile(quantile, self.freedom) for quantile in (0.5 + confidence / 2.0, POWER))
        return self.error * sum(quantiles)


def estimate(values: Values, weights: Mapping[str, float]) -> Estimate:
    """Return the weighted sum of tags' means over seeds and prompts, with its error.

    Args:
        values: of each tag; all have the same seeds.
        weights: of the tags that are summed; 1 / their number for a mean.
    """
    parts = {tag: weight * values[tag] for tag, weight in weights.items() if weight != 0.0}
    means_S = np.sum([part_SP.mean(axis=1) for part_SP in parts.values()], axis=0)
    num_seeds = len(means_S)
    of_seeds = float(means_S.var(ddof=1) / num_seeds) if num_seeds > 1 else 0.0
    prompts = [(len(part_SP[0]), _variance(part_SP.mean(axis=0)) / len(part_SP[0])) for part_SP in parts.values()]
    of_prompts = sum(variance for _, variance in prompts)
    shares = [(variance, number - 1) for number, variance in prompts] + [(of_seeds, num_seeds - 1)]
    return Estimate(
        value=float(means_S.mean()),
        error=math.sqrt(of_seeds + of_prompts),
        freedom=_freedom(of_seeds + of_prompts, shares),
        num_seeds=num_seeds,
    )


def minus(left: Values, right: Values) -> dict[str, NDArray[np.float64]]:
    """Return left - right, seed by seed and prompt by prompt; a reference without seeds is taken from every seed."""
    return {tag: left_SP - right[tag] for tag, left_SP in left.items()}


def mean_weights(tags: tuple[str, ...]) -> dict[str, float]:
    """Return the weights of a mean over tags."""
    return {tag: 1.0 / len(tags) for tag in tags}


def _variance(values_P: NDArray[np.float64]) -> float:
    return float(values_P.var(ddof=1)) if len(values_P) > 1 else 0.0


def _freedom(total: float, shares: list[tuple[float, int]]) -> float:
    """Return Satterthwaite's degrees of freedom of a sum of variances, each with its own."""
    if total == 0.0:
        return math.inf
    squared = sum(variance**2 / number for variance, number in shares if number > 0)
    return total**2 / squared if squared > 0.0 else math.inf


def _t_quantile(quantile: float, freedom: float) -> float:
    from scipy.stats import norm, t

    return float(norm.ppf(quantile) if math.isinf(freedom) else t.ppf(quantile, freedom))


def _t_tail(value: float, freedom: float) -> float:
    from scipy.stats import norm, t

    return float(norm.sf(value) if math.isinf(freedom) else t.sf(value, freedom))
