"""Intervals by bootstrap over prompts, stratified by tag: prompts, not images, are what the suite sampled.

Shape legend: P prompts of one tag, R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from softalign.geneval.prompts import TAGS, tags_in_order
from softalign.geneval.scoring import ImageResult

OVERALL = "overall"


@dataclass(frozen=True)
class Interval:
    """A value and the bounds of its bootstrap interval (percentile method)."""

    value: float
    low: float
    high: float

    def widened(self, ratio: float) -> Interval:
        """Return it with both ends so many times as far from the value."""
        low, high = (self.value + (end - self.value) * ratio for end in (self.low, self.high))
        return Interval(self.value, round(low, 6), round(high, 6))


@dataclass(frozen=True)
class PromptCounts:
    """Correct images and images of each prompt of one tag, in the suite's order."""

    correct_P: NDArray[np.int64]
    images_P: NDArray[np.int64]


def counts_by_tag(results: Sequence[ImageResult]) -> dict[str, PromptCounts]:
    """Return the counts per prompt of each tag that occurs, official ones in their order."""
    order = tags_in_order(result.tag for result in results)
    return counts_of(((result.tag, result.folder, result.correct) for result in results), order)


def counts_of(verdicts: Iterable[tuple[str, str, bool]], tags: Iterable[str] = ()) -> dict[str, PromptCounts]:
    """Return the counts per prompt of each tag that occurs.

    Args:
        verdicts: of each image its tag, its prompt's folder, and whether it is right.
        tags: those that come first, in this order; others follow as they occur.
    """
    folders: dict[str, dict[str, list[bool]]] = {tag: {} for tag in tags}
    for tag, folder, is_correct in verdicts:
        folders.setdefault(tag, {}).setdefault(folder, []).append(is_correct)
    return {
        tag: PromptCounts(
            correct_P=np.array([sum(verdicts) for verdicts in prompts.values()]),
            images_P=np.array([len(verdicts) for verdicts in prompts.values()]),
        )
        for tag, prompts in folders.items()
        if prompts
    }


def score_intervals(
    counts: Mapping[str, PromptCounts], *, num_bootstrap: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Return each tag's score, and under ``OVERALL`` the mean of them, with intervals."""
    return _intervals(
        {tag: (c.correct_P, c.images_P) for tag, c in counts.items()},
        num_bootstrap=num_bootstrap,
        confidence=confidence,
        seed=seed,
    )


def paired_intervals(
    candidate: Mapping[str, PromptCounts],
    reference: Mapping[str, PromptCounts],
    *,
    num_bootstrap: int,
    confidence: float,
    seed: int,
) -> dict[str, Interval]:
    """Return each tag's difference candidate - reference, and the overall one; both resampled by the same prompts."""
    return _intervals(
        {tag: (c.correct_P - reference[tag].correct_P, c.images_P) for tag, c in candidate.items()},
        num_bootstrap=num_bootstrap,
        confidence=confidence,
        seed=seed,
    )


def difference_intervals(
    differences: Mapping[str, NDArray[np.int8]], *, num_bootstrap: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """Return what ``paired_intervals`` does, from each tag's differences of images: a row a prompt, -1, 0 or 1."""
    return _intervals(
        {tag: (one.sum(axis=1, dtype=np.int64), np.full(*one.shape)) for tag, one in differences.items()},
        num_bootstrap=num_bootstrap,
        confidence=confidence,
        seed=seed,
    )


def _intervals(
    numerators: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]],
    *,
    num_bootstrap: int,
    confidence: float,
    seed: int,
) -> dict[str, Interval]:
    intervals: dict[str, Interval] = {}
    means_R = np.zeros(num_bootstrap)
    for tag, (numerator_P, images_P) in numerators.items():
        scores_R = _resampled(tag, numerator_P, images_P, num_bootstrap, seed)
        means_R += scores_R / len(numerators)
        intervals[tag] = _interval(numerator_P.sum() / images_P.sum(), scores_R, confidence)
    overall = float(np.mean([interval.value for interval in intervals.values()]))
    intervals[OVERALL] = _interval(overall, means_R, confidence)
    return intervals


def ratio_interval(
    name: str, sums_P: NDArray[Any], weights_P: NDArray[Any], *, num_bootstrap: int, confidence: float, seed: int
) -> Interval:
    """Return the sum of some values over prompts by the sum of their weights, with its interval.

    Args:
        name: decides which random numbers are drawn.
        sums_P: of each prompt the sum of its values, or of its differences from another set's.
        weights_P: how much each prompt counts: 1, or how many values it has.
        num_bootstrap: resamplings of the prompts.
        confidence: of the interval.
        seed: of the resampling.
    """
    samples_R = _resampled(name, sums_P, weights_P, num_bootstrap, seed)
    return _interval(sums_P.sum() / weights_P.sum(), samples_R, confidence)


def _resampled(
    name: str, sums_P: NDArray[Any], weights_P: NDArray[Any], num_bootstrap: int, seed: int
) -> NDArray[np.float64]:
    rng = np.random.default_rng([abs(seed), _stream(name)])
    picks_RP = rng.integers(len(weights_P), size=(num_bootstrap, len(weights_P)))
    ratios_R: NDArray[np.float64] = sums_P[picks_RP].sum(axis=1) / weights_P[picks_RP].sum(axis=1)
    return ratios_R


def _stream(tag: str) -> int:
    """Return which random numbers a tag draws: the official ones by their number, a suite's own by their name."""
    official: tuple[str, ...] = TAGS
    return official.index(tag) if tag in official else len(official) + crc32(tag.encode())


def _interval(value: float, samples_R: NDArray[np.float64], confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(samples_R, [tail, 1.0 - tail])
    return Interval(value=round(float(value), 6), low=round(float(low), 6), high=round(float(high), 6))
