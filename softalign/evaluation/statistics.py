"""What a paired comparison shows and could have shown: exact p-values, Holm's correction, wins, detectable differences.

Prompts are what a suite samples, so prompts are what is flipped. Under "the two arms are the same" the names of a
prompt's two arms may be exchanged, with all of its images; a p-value is the share of exchanges whose difference is at
least as large as the one that was found (R. A. Fisher, The design of experiments, 1935). It is exact for any number
of prompts and images, however alike the images of a prompt are; a bootstrap's p-value is so for many prompts only, and
the bootstrap serves for the interval.

Shape legend: P prompts, F flips.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from softalign.artifacts import TaskStatistics
from softalign.evaluation.intervals import OVERALL, Interval
from softalign.geneval.scoring import ImageResult
from softalign.registry.sureness import critical_value, detectable_difference, standard_error

NUM_FLIPS = 10_000
"""Of the names of prompts' arms: a p-value of 0.05 is then known to 0.002."""


@dataclass(frozen=True)
class Outcomes:
    """How two arms did on the prompts of one tag.

    Attributes:
        gained_P: images of each prompt that the candidate has right and the reference wrong.
        lost_P: the reverse.
        images_P: images of each prompt.
    """

    gained_P: NDArray[np.int64]
    lost_P: NDArray[np.int64]
    images_P: NDArray[np.int64]

    @property
    def net_P(self) -> NDArray[np.int64]:
        """Images that the candidate has right more than the reference."""
        return self.gained_P - self.lost_P


@dataclass(frozen=True)
class Components:
    """Where the variance of one image's paired difference (-1, 0 or 1) comes from.

    Attributes:
        between: prompts' true differences.
        within: images of one prompt.
    """

    between: float
    within: float

    def variance_of_mean(self, images_per_prompt: int) -> float:
        """Return the variance of a prompt's mean difference."""
        return self.between + self.within / images_per_prompt


ASSUMED = Components(between=0.002, within=0.13)
"""Before anything is measured: about the largest that the recipe ``shapes`` had, 150 prompts of 6 images. Over three
comparisons within ranged from 0.062 to 0.128; between was from -0.002 to 0.0045, so nothing that is told from 0."""


def outcomes_by_tag(verdicts: Iterable[tuple[str, str, bool, bool]]) -> dict[str, Outcomes]:
    """Return how two arms did by tag.

    Args:
        verdicts: of each image its tag, its prompt's folder, and whether candidate and reference are right.
    """
    folders: dict[str, dict[str, list[tuple[bool, bool]]]] = {}
    for tag, folder, *both in verdicts:
        folders.setdefault(tag, {}).setdefault(folder, []).append((both[0], both[1]))
    return {
        tag: Outcomes(
            gained_P=np.array([sum(mine and not theirs for mine, theirs in images) for images in prompts.values()]),
            lost_P=np.array([sum(theirs and not mine for mine, theirs in images) for images in prompts.values()]),
            images_P=np.array([len(images) for images in prompts.values()]),
        )
        for tag, prompts in folders.items()
    }


def pair_statistics(
    candidate: Sequence[ImageResult],
    reference: Sequence[ImageResult],
    intervals: Mapping[str, Interval],
    *,
    critical: float,
    seed: int,
) -> tuple[TaskStatistics, ...]:
    """Return what the verdicts of two arms on the same images show; see ``task_statistics``."""
    images = zip(candidate, reference, strict=True)
    outcomes = outcomes_by_tag((mine.tag, mine.folder, mine.correct, theirs.correct) for mine, theirs in images)
    return task_statistics(outcomes, intervals, critical=critical, seed=seed)


def task_statistics(
    outcomes: Mapping[str, Outcomes],
    intervals: Mapping[str, Interval],
    *,
    critical: float,
    seed: int,
    num_flips: int = NUM_FLIPS,
) -> tuple[TaskStatistics, ...]:
    """Return what each tag shows, and under ``OVERALL`` what their mean does.

    Args:
        outcomes: of each tag.
        intervals: of the same tags' paired differences, and the overall one.
        critical: how many standard errors the intervals reach to each side.
        seed: of the flips.
        num_flips: how many; all there are, where there are no more.
    """
    p_values = flip_p_values(outcomes, num_flips=num_flips, seed=seed)
    adjusted = holm({tag: p_value for tag, p_value in p_values.items() if tag != OVERALL})
    every = {**outcomes, OVERALL: _together(outcomes.values())}
    return tuple(
        TaskStatistics(
            tag=tag,
            p_value=p_values[tag],
            p_adjusted=adjusted.get(tag),
            wins=int(every[tag].gained_P.sum()),
            losses=int(every[tag].lost_P.sum()),
            prompts_better=int((every[tag].net_P > 0).sum()),
            prompts_worse=int((every[tag].net_P < 0).sum()),
            detectable=round(_detectable(interval, critical), 6),
        )
        for tag, interval in intervals.items()
    )


def flip_p_values(outcomes: Mapping[str, Outcomes], *, num_flips: int, seed: int) -> dict[str, float]:
    """Return the two-sided p-value of each tag's difference, and under ``OVERALL`` of the mean over tags."""
    weights = {tag: one.net_P / one.images_P.sum() for tag, one in outcomes.items()}
    found = {
        tag: flip_p_value(terms_P, num_flips=num_flips, rng=np.random.default_rng([abs(seed), crc32(tag.encode())]))
        for tag, terms_P in weights.items()
    }
    every = np.concatenate([terms_P / len(weights) for terms_P in weights.values()])
    rng = np.random.default_rng([abs(seed), crc32(OVERALL.encode())])
    return found | {OVERALL: flip_p_value(every, num_flips=num_flips, rng=rng)}


def flip_p_value(terms_P: NDArray[np.float64], *, num_flips: int, rng: np.random.Generator) -> float:
    """Return the share of sign flips whose sum is at least as far from 0 as the sum of the terms.

    Where prompts that differ have no more than ``num_flips`` patterns of signs, all are looked at and the p-value is
    the exact one. Else patterns are drawn, and the one that was found counts as one of them, which keeps the error rate
    exact for any number of drawings (B. Phipson and G. K. Smyth, Permutation p-values should never be zero, 2010).

    Args:
        terms_P: what each prompt adds to the difference.
        num_flips: how many patterns are looked at, at most.
        rng: draws them.
    """
    terms_P = terms_P[terms_P != 0]
    is_every_pattern = 2.0 ** len(terms_P) <= num_flips
    if is_every_pattern:
        flipped_FP = (np.arange(2 ** len(terms_P))[:, None] >> np.arange(len(terms_P))) & 1
    else:
        flipped_FP = rng.integers(2, size=(num_flips, len(terms_P)), dtype=np.int8)
    total = terms_P.sum()
    sums_F = total - 2.0 * (flipped_FP @ terms_P)
    num_as_far = int((np.abs(sums_F) >= abs(total) - 1e-9).sum())  # equal sums in another order differ by roundings
    return num_as_far / len(sums_F) if is_every_pattern else (num_as_far + 1) / (num_flips + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for how many there are: any false alarm among them is as rare as one alone.

    S. Holm, A simple sequentially rejective multiple test procedure, 1979; valid however they depend on each other.
    """
    adjusted: dict[str, float] = {}
    reached = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = reached
    return {name: adjusted[name] for name in p_values}


def planned_detectable(
    prompts_per_tag: Iterable[int], images_per_prompt: int, *, confidence: float, components: Components = ASSUMED
) -> float:
    """Return the smallest true overall difference that would be found in four cases of five, before anything is drawn.

    Args:
        prompts_per_tag: how many prompts each tag has.
        images_per_prompt: of each arm.
        confidence: of the interval that must exclude 0.
        components: the variance, assumed or of an earlier comparison.
    """
    numbers = list(prompts_per_tag)
    variance = sum(components.variance_of_mean(images_per_prompt) / number for number in numbers) / len(numbers) ** 2
    return detectable_difference(variance**0.5, critical_value(confidence))


def _detectable(interval: Interval, critical: float) -> float:
    return detectable_difference(standard_error(interval.low, interval.high, critical), critical)


def _together(outcomes: Iterable[Outcomes]) -> Outcomes:
    parts = list(outcomes)
    return Outcomes(
        gained_P=np.concatenate([part.gained_P for part in parts]),
        lost_P=np.concatenate([part.lost_P for part in parts]),
        images_P=np.concatenate([part.images_P for part in parts]),
    )
