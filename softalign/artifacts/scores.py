"""The records of an evaluation: what each arm scored, and how the arms compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from softalign.artifacts.frozen import Frozen
from softalign.artifacts.paired import PairEvidence, TagDifference
from softalign.artifacts.record import Record, Stage
from softalign.artifacts.stopping import Stopping
from softalign.errors import MissingInputError

Arm = Literal["base", "untrained", "adapter", "champion", "guided_base"]
"""Whose images are scored: three arms, and the present champion where there is one, are compared; the base with
guidance may stand beside them, as a reference."""
UNKNOWN_DETECTOR = "unknown detector"
"""What scores are called of which nobody said whose weights looked at the images."""
BASE_ARMS: tuple[Arm, ...] = ("base", "guided_base")
"""The arms that take no adapter."""


class TagScore(Frozen):
    """GenEval score of one tag: the share of correct images, with a bootstrap interval over prompts (ratios 0..1)."""

    tag: str
    score: float
    ci_low: float
    ci_high: float
    num_images: int
    num_correct: int


class EvalReport(Record):
    """Scores of one arm: images in GenEval layout, ``results.jsonl``.

    Attributes:
        adapter_digest: of the tokens it was drawn with: empty for the base, for the untrained arm the digest of the
            step-0 tokens (which adapters may share), for the champion the sha256 of its weights, else the trained
            adapter's. ``parents`` holds the same.
        detector: what its scores are called by whose weights looked at the images: ``geneval``, ``geneval-hf``; empty
            for the embedded world.
        sampler: the scheduler's class that its images were drawn with; empty in records of earlier versions.
        num_inference_steps: of that sampler; None likewise.
        divide_by_guidance: whether guidance divided the tokens' strength on the conditional branch.
    """

    stage: ClassVar[Stage] = "evaluate"
    filename: ClassVar[str] = "report.json"
    later_fields: ClassVar[tuple[str, ...]] = ("detector", "sampler", "num_inference_steps", "divide_by_guidance")

    arm: Arm
    suite: str
    adapter_digest: str
    overall_score: float
    overall_ci_low: float
    overall_ci_high: float
    tags: tuple[TagScore, ...]
    num_images: int
    num_prompts: int
    num_prompts_any_correct: int
    guidance_scale: float
    detector: str = ""
    sampler: str = ""
    num_inference_steps: int | None = None
    divide_by_guidance: bool = False

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The tags that it has scores of."""
        return tuple(one.tag for one in self.tags)

    def sampling_text(self) -> str:
        """Return in sentences how the images were drawn: sampler, steps, and how the tokens acted."""
        if not self.sampler or self.num_inference_steps is None:
            return "Sampler and steps were not recorded."
        divided = (
            "Tokens loaded with divide_by_guidance=True: guidance divides their strength on its conditional branch."
        )
        return f"Sampler {self.sampler}, {self.num_inference_steps} steps." + f" {divided}" * self.divide_by_guidance


class GuidedBase(Frozen):
    """What the base scores with guidance, on the arms' prompts and noise: a reference that no gate looks at."""

    guidance_scale: float
    denoiser_calls_per_image: int
    overall_score: float
    overall_ci_low: float
    overall_ci_high: float


class ComparisonReport(Record):
    """The arms of one evaluation side by side, paired by prompt and image: ``comparison.json``, ``report.html``.

    Attributes:
        guidance_scale: of all three arms; 1 is without guidance. None in records of earlier versions.
        denoiser_calls_per_image: how often the denoiser sees an image of the arms on its way; None likewise.
        guided_base: where ``evaluate.reference_guidance_scale`` asked for it.
        champion: the registered version that was drawn beside the arms, ``NAME/VERSION#sha256``; empty: none was.
        overall_champion: its score; None without it.
        adapter_vs_champion: paired as the others; empty without it.
        detector: as the arms' reports have it.
        stopping: of images that were drawn in rounds; else None.
        confidence: of the intervals; None in records of earlier versions, as is ``seed``, of noise and intervals.
        over_base: what the overall difference shows; ``statistics.json`` has every tag's. None in earlier records, as
            are ``over_untrained`` and, also without a champion, ``over_champion``.
    """

    stage: ClassVar[Stage] = "compare"
    filename: ClassVar[str] = "comparison.json"
    later_fields: ClassVar[tuple[str, ...]] = (
        "champion",
        "overall_champion",
        "adapter_vs_champion",
        "confidence",
        "seed",
        "over_base",
        "over_untrained",
        "over_champion",
        "detector",
        "stopping",
    )

    suite: str
    overall_base: float
    overall_untrained: float
    overall_adapter: float
    adapter_vs_base: tuple[TagDifference, ...]
    adapter_vs_untrained: tuple[TagDifference, ...]
    num_images_per_arm: int
    guidance_scale: float | None = None
    denoiser_calls_per_image: int | None = None
    guided_base: GuidedBase | None = None
    champion: str = ""
    overall_champion: float | None = None
    adapter_vs_champion: tuple[TagDifference, ...] = ()
    confidence: float | None = None
    seed: int | None = None
    over_base: PairEvidence | None = None
    over_untrained: PairEvidence | None = None
    over_champion: PairEvidence | None = None
    detector: str = ""
    stopping: Stopping | None = None

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The tags that it has differences of; the overall one, which is none, stands last."""
        return tuple(one.tag for one in self.adapter_vs_base[:-1])

    def stopping_text(self) -> str:
        """Return in sentences how many rounds were drawn and why no more; empty where there were no rounds."""
        return "" if self.stopping is None else self.stopping.to_text()

    def guidance_text(self) -> str:
        """Return in sentences with which guidance the arms were compared, what an image costs, and the reference."""
        if self.guidance_scale is None or self.denoiser_calls_per_image is None:
            return "The arms' guidance was not recorded."
        how = "without guidance" if self.guidance_scale == 1.0 else f"at guidance {self.guidance_scale:g}"
        text = f"The arms were compared {how}: {self.denoiser_calls_per_image} denoiser calls an image."
        if self.guided_base is None:
            return text
        base = self.guided_base
        return (
            f"{text} For reference, the base at guidance {base.guidance_scale:g}: "
            f"{base.overall_score * 100:.1f} points ({base.overall_ci_low * 100:.1f} to "
            f"{base.overall_ci_high * 100:.1f}), "
            f"{base.denoiser_calls_per_image} calls an image."
        )


@dataclass(frozen=True, slots=True)
class ArmReports:
    """One report for each arm.

    Attributes:
        untrained: the step-0 tokens'.
        guided_base: the base model's with guidance, a reference beside the arms; None: not asked for.
        champion: the present champion's; None: there is none, or it was not drawn.
        sweep: the compared arms' at other guidance, where ``evaluate.guidance_sweep`` asked for it.
    """

    base: EvalReport
    untrained: EvalReport
    adapter: EvalReport
    guided_base: EvalReport | None = None
    champion: EvalReport | None = None
    sweep: tuple[EvalReport, ...] = ()

    @classmethod
    def of(cls, reports: Mapping[Arm, EvalReport], sweep: tuple[EvalReport, ...] = ()) -> Self:
        """Return the reports by their arms.

        Raises:
            MissingInputError: an arm that is compared has none.
        """
        missing = [arm for arm in ("base", "untrained", "adapter") if arm not in reports]
        if missing:
            raise MissingInputError(
                "An arm of the evaluation has no report.",
                expected="reports of base, untrained and adapter",
                found=f"no {' and no '.join(missing)}",
                fix="run `softalign evaluate RECIPE`",
            )
        return cls(
            base=reports["base"],
            untrained=reports["untrained"],
            adapter=reports["adapter"],
            guided_base=reports.get("guided_base"),
            champion=reports.get("champion"),
            sweep=sweep,
        )

    @property
    def compared(self) -> tuple[EvalReport, ...]:
        """Those that are compared in pairs, the references first and the adapter last."""
        return self.base, self.untrained, self.adapter

    @property
    def all(self) -> tuple[EvalReport, ...]:
        """Every report at the arms' own guidance, and the references outside of the comparison last."""
        return (*self.compared, *(report for report in (self.champion, self.guided_base) if report is not None))
