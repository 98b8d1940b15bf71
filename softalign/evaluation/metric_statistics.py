"""Means of an image's scores over prompts, and paired differences of two sets; prompts are what is resampled.

Shape legend: P prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from softalign.artifacts.metrics import MetricDifference, MetricMean
from softalign.config.metrics import MetricConfig
from softalign.errors import DataError
from softalign.evaluation.intervals import ratio_interval
from softalign.evaluation.statistics import NUM_FLIPS, flip_p_value
from softalign.metrics.scorer import DEFINITIONS

Values = Mapping[str, float]
"""Scores by the images' names relative to their set."""


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: resamplings of the prompts, a ratio, and the seed of both resamplings and flips."""

    num_bootstrap: int
    confidence: float
    seed: int


def metric_mean(config: MetricConfig, values: Values, how: Resampling) -> MetricMean:
    """Return what a set scores.

    Raises:
        DataError: there are no images.
    """
    means_P = _prompt_means(values)
    if not means_P.size:
        raise DataError("There are no images to score.", expected="at least one image", found="none")
    interval = ratio_interval(config.name, means_P, np.ones_like(means_P), **vars(how))
    return MetricMean(
        metric=config.name,
        definition=DEFINITIONS[config.name],
        model=config.model,
        mean=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        num_images=len(values),
        num_prompts=len(means_P),
    )


def metric_difference(metric: str, candidate: Values, reference: Values, how: Resampling) -> MetricDifference:
    """Return candidate - reference of two sets whose images have the same names."""
    differences_P = _prompt_means({name: value - reference[name] for name, value in candidate.items()})
    interval = ratio_interval(metric, differences_P, np.ones_like(differences_P), **vars(how))
    rng = np.random.default_rng([abs(how.seed), crc32(metric.encode())])
    return MetricDifference(
        metric=metric,
        difference=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        p_value=flip_p_value(differences_P, num_flips=NUM_FLIPS, rng=rng),
        prompts_better=int((differences_P > 0).sum()),
        prompts_worse=int((differences_P < 0).sum()),
    )


def _prompt_means(values: Values) -> NDArray[np.float64]:
    folders: dict[str, list[float]] = {}
    for name, value in values.items():
        folders.setdefault(name.rsplit("/", 2)[0], []).append(value)
    return np.array([np.mean(own) for own in folders.values()])
