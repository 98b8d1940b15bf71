"""Differences between arms whose verdicts lie image beside image, with all that is said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from softalign.artifacts import PairStatistics, Stopping, TagDifference, TaskStatistics
from softalign.config.evaluation import EvalConfig
from softalign.evaluation.intervals import Interval, counts_by_tag, paired_intervals
from softalign.evaluation.statistics import pair_statistics, planned_detectable
from softalign.evaluation.suites import suite_prompts
from softalign.geneval.scoring import ImageResult
from softalign.registry.sureness import critical_value, stopping_after

Results = tuple[ImageResult, ...]
"""Verdicts of one arm, in the suite's order."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What is said of two arms, by tag and overall: the differences, and what they show."""

    differences: tuple[TagDifference, ...] = ()
    statistics: tuple[TaskStatistics, ...] = ()


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of a comparison; without a champion nothing is said of it."""

    over_base: Pair
    over_untrained: Pair
    over_champion: Pair
    statistics: PairStatistics


def differences(candidate: Results, reference: Results, config: EvalConfig) -> tuple[TagDifference, ...]:
    """Return candidate - reference per tag and overall, with intervals by resampling prompts of both together."""
    return _differences(_paired_intervals(candidate, reference, config))


def sequential(intervals: Mapping[str, Interval], config: EvalConfig) -> Mapping[str, Interval]:
    """Return the intervals that a gate looks at: of images in rounds, those that hold in every round at once."""
    stopping = stopping_of(config)
    if stopping is None:
        return intervals
    return {tag: interval.widened(stopping.widening) for tag, interval in intervals.items()}


def stopping_of(config: EvalConfig) -> Stopping | None:
    """Return after how many rounds an evaluation stops, and what that makes of its intervals; None without rounds."""
    if not config.is_in_rounds:
        return None
    return stopping_after(config.num_rounds, config.images_per_prompt, config.confidence)


def compare_pairs(
    candidate: Results, untrained: Results, base: Results, champion: Results | None = None, *, config: EvalConfig
) -> Pairs:
    """Return what every pair of a comparison shows, and what was to be told before the first image."""
    over_base, over_untrained = (_pair(candidate, other, config) for other in (base, untrained))
    over_champion = Pair() if champion is None else _pair(candidate, champion, config)
    prompts = [len(counts.images_P) for counts in counts_by_tag(base).values()]
    planned = planned_detectable(prompts, config.images_per_prompt, confidence=config.confidence)
    stopping = stopping_of(config)
    statistics = PairStatistics(
        planned_detectable=round(planned, 6),
        adapter_vs_base=over_base.statistics,
        adapter_vs_untrained=over_untrained.statistics,
        adapter_vs_champion=over_champion.statistics,
        stopping=stopping,
        why_stopped="" if stopping is None else stopping.why,
    )
    return Pairs(over_base, over_untrained, over_champion, statistics)


def planned_for(config: EvalConfig) -> float:
    """Return the smallest true overall difference that an evaluation tells in four cases of five (ratio)."""
    return planned_detectable(
        Counter(prompt.tag for prompt in suite_prompts(config)).values(),
        config.images_per_prompt,
        confidence=config.confidence,
    )


def _pair(candidate: Results, reference: Results, config: EvalConfig) -> Pair:
    intervals = sequential(_paired_intervals(candidate, reference, config), config)
    critical = critical_value(config.confidence, stopping_of(config))
    found = pair_statistics(candidate, reference, intervals, critical=critical, seed=config.seed)
    return Pair(_differences(intervals), found)


def _differences(intervals: Mapping[str, Interval]) -> tuple[TagDifference, ...]:
    return tuple(
        TagDifference(tag=tag, difference=interval.value, ci_low=interval.low, ci_high=interval.high)
        for tag, interval in intervals.items()
    )


def _paired_intervals(candidate: Results, reference: Results, config: EvalConfig) -> dict[str, Interval]:
    return paired_intervals(
        counts_by_tag(candidate),
        counts_by_tag(reference),
        num_bootstrap=config.num_bootstrap,
        confidence=config.confidence,
        seed=config.seed,
    )
