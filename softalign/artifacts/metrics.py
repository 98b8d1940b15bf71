"""What scores beside the suite's say of sets of images: ``metrics.json`` of a comparison."""

from __future__ import annotations

from softalign.artifacts.frozen import Frozen
from softalign.artifacts.scores import Arm

METRIC_SCORES_FILENAME = "metrics.json"


class MetricMean(Frozen):
    """One metric of one set: the mean over prompts of their images' means, with a bootstrap interval over prompts.

    Attributes:
        definition: what the number is.
        model: who gave it: a folder or hub id.
    """

    metric: str
    definition: str
    model: str
    mean: float
    ci_low: float
    ci_high: float
    num_images: int
    num_prompts: int


class MetricDifference(Frozen):
    """One metric's paired difference (candidate - reference), with a bootstrap interval over prompts.

    Attributes:
        p_value: two-sided, by exchanging the arms of prompts.
        prompts_better: prompts whose mean is higher for the candidate.
        prompts_worse: the reverse.
    """

    metric: str
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    prompts_better: int
    prompts_worse: int


class ArmMetrics(Frozen):
    """One arm's means."""

    arm: Arm
    means: tuple[MetricMean, ...]


class MetricsReport(Frozen):
    """The metrics of a comparison's arms, and the adapter's differences; empty for a champion that was not drawn."""

    arms: tuple[ArmMetrics, ...]
    adapter_vs_base: tuple[MetricDifference, ...]
    adapter_vs_untrained: tuple[MetricDifference, ...]
    adapter_vs_champion: tuple[MetricDifference, ...] = ()
