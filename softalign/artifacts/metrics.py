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


class SetDistances(Frozen):
    """How far a set of images is from a reference; lower is nearer.

    Attributes:
        distances: by name: ``fid`` and ``kid`` with FID's published weights alone, else ``frechet_distance[MODEL]`` and
            ``kernel_distance[MODEL]``; the kernel one needs the reference's features, which some files do not have.
        kernel_std: over subsets of 1000 images; None where there are fewer.
        num_features: of an image. Sets with fewer images than that have a larger Fréchet distance for it.
        num_reference_images: None where a file does not say it.
    """

    distances: dict[str, float]
    kernel_std: float | None
    num_features: int
    num_images: int
    num_reference_images: int | None

    @property
    def frechet(self) -> tuple[str, float]:
        """The Fréchet distance and its name."""
        return next(iter(self.distances.items()))


class ArmDistances(Frozen):
    """The distances of one arm's images at one guidance."""

    arm: Arm
    guidance_scale: float
    found: SetDistances


class MetricsReport(Frozen):
    """The metrics of a comparison's arms, and the adapter's differences; empty for a champion that was not drawn.

    Attributes:
        distances: of every arm at every guidance, the arms' own first; empty where none was asked for.
    """

    arms: tuple[ArmMetrics, ...]
    adapter_vs_base: tuple[MetricDifference, ...]
    adapter_vs_untrained: tuple[MetricDifference, ...]
    adapter_vs_champion: tuple[MetricDifference, ...] = ()
    distances: tuple[ArmDistances, ...] = ()
