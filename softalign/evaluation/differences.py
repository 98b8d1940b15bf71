"""Differences between arms whose verdicts lie image beside image, with all that is said of them."""

from __future__ import annotations

from collections import Counter

from softalign.artifacts import PairStatistics, TagDifference, TaskStatistics
from softalign.config.evaluation import EvalConfig
from softalign.evaluation.intervals import Interval, counts_by_tag, paired_intervals
from softalign.evaluation.statistics import outcomes_by_tag, planned_detectable, task_statistics
from softalign.evaluation.suites import suite_prompts
from softalign.geneval.scoring import ImageResult

Results = tuple[ImageResult, ...]
"""Verdicts of one arm, in the suite's order."""


def differences(candidate: Results, reference: Results, config: EvalConfig) -> tuple[TagDifference, ...]:
    """Return candidate - reference per tag and overall, with intervals by resampling prompts of both together."""
    return tuple(
        TagDifference(tag=tag, difference=interval.value, ci_low=interval.low, ci_high=interval.high)
        for tag, interval in _paired_intervals(candidate, reference, config).items()
    )


def pair_statistics(
    candidate: Results, untrained: Results, base: Results, champion: Results | None = None, *, config: EvalConfig
) -> PairStatistics:
    """Return what every pair of a comparison shows, and what was to be told before the first image."""
    prompts = [len(counts.images_P) for counts in counts_by_tag(base).values()]
    return PairStatistics(
        planned_detectable=round(
            planned_detectable(prompts, config.images_per_prompt, confidence=config.confidence), 6
        ),
        adapter_vs_base=statistics_of(candidate, base, config),
        adapter_vs_untrained=statistics_of(candidate, untrained, config),
        adapter_vs_champion=() if champion is None else statistics_of(candidate, champion, config),
    )


def planned_for(config: EvalConfig) -> float:
    """Return the smallest true overall difference that an evaluation tells in four cases of five (ratio)."""
    return planned_detectable(
        Counter(prompt.tag for prompt in suite_prompts(config)).values(),
        config.images_per_prompt,
        confidence=config.confidence,
    )


def statistics_of(candidate: Results, reference: Results, config: EvalConfig) -> tuple[TaskStatistics, ...]:
    """Return what the differences per tag and overall show: p-values, wins and losses, what could have been told."""
    pairs = zip(candidate, reference, strict=True)
    return task_statistics(
        outcomes_by_tag((mine.tag, mine.folder, mine.correct, theirs.correct) for mine, theirs in pairs),
        _paired_intervals(candidate, reference, config),
        confidence=config.confidence,
        seed=config.seed,
    )


def _paired_intervals(candidate: Results, reference: Results, config: EvalConfig) -> dict[str, Interval]:
    return paired_intervals(
        counts_by_tag(candidate),
        counts_by_tag(reference),
        num_bootstrap=config.num_bootstrap,
        confidence=config.confidence,
        seed=config.seed,
    )
