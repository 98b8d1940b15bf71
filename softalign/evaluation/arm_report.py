"""The record of an evaluated arm: its scores by tag and overall, with intervals, and how its images were made."""

from __future__ import annotations

from collections.abc import Mapping

from softalign.artifacts import Arm, EvalReport, TagScore
from softalign.config.evaluation import EvalConfig
from softalign.evaluation.intervals import OVERALL, Interval, counts_by_tag, score_intervals
from softalign.evaluation.suites import label_of, suite_label
from softalign.geneval.scoring import ImageResult, SuiteScore, summarize


def arm_report(
    arm: Arm,
    digest: str,
    config: EvalConfig,
    results: tuple[ImageResult, ...],
    num_prompts: int,
    key: str,
    sampler: str,
) -> EvalReport:
    """Return the record of an arm.

    Args:
        arm: whose images.
        digest: of the adapter, or empty.
        config: how the arm was evaluated (``EvalConfig.of_arm``).
        results: the verdicts.
        num_prompts: of the suite.
        key: the stage key.
        sampler: what drew the images.
    """
    summary, intervals = summarize(results), _intervals(results, config)
    return EvalReport(
        stage_key=key,
        parents=(digest,) if digest else (),
        arm=arm,
        suite=suite_label(config),
        adapter_digest=digest,
        overall_score=intervals[OVERALL].value,
        overall_ci_low=intervals[OVERALL].low,
        overall_ci_high=intervals[OVERALL].high,
        tags=_tag_scores(summary, intervals),
        num_images=summary.num_images,
        num_prompts=num_prompts,
        num_prompts_any_correct=summary.num_prompts_any_correct,
        guidance_scale=config.guidance_scale,
        detector=label_of(config),
        sampler=sampler,
        num_inference_steps=config.num_inference_steps,
        divide_by_guidance=config.divide_by_guidance,
    )


def _intervals(results: tuple[ImageResult, ...], config: EvalConfig) -> dict[str, Interval]:
    counts = counts_by_tag(results)
    return score_intervals(counts, num_bootstrap=config.num_bootstrap, confidence=config.confidence, seed=config.seed)


def _tag_scores(summary: SuiteScore, intervals: Mapping[str, Interval]) -> tuple[TagScore, ...]:
    return tuple(
        TagScore(
            tag=tag,
            score=intervals[tag].value,
            ci_low=intervals[tag].low,
            ci_high=intervals[tag].high,
            num_images=task.num_images,
            num_correct=task.num_correct,
        )
        for tag, task in summary.tags.items()
    )
