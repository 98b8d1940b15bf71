"""The loss on the pair grid: one of three objectives, each with its own fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import NonNegative, Positive
from softalign.config.presets import Preset


class AGSMConfig(Frozen):
    """Alignment-Guided Score Matching, arXiv 2605.30038: targets shifted by what the averaged tokens judge.

    Defaults are the released code's numbers for SD1.5. A Recipe fills in those of ``preset`` and of the family.
    """

    name: Literal["agsm"] = Field("agsm", description="Alignment-Guided Score Matching (arXiv 2605.30038)")
    preset: Preset | None = Field(
        None,
        description="whose numbers open fields get where the AGSM paper and its released code differ: "
        "reward_reduction, temperature, gamma_negative, train.soft_tokens.layers, the optimizer's schedule "
        "and evaluate.unconditional_bank; null: this library's",
    )
    weights: Literal["plackett_luce", "bradley_terry"] = Field(
        "plackett_luce", description="how rewards become weights: all captions against each other, or pair by pair"
    )
    banks: Literal["dual", "shared"] = Field(
        "dual", description="dual: psi+ for an image's own caption and psi- for the others; shared: psi+ for all"
    )
    gamma_positive: NonNegative = Field(1.0, description="g+: how far the own caption's target is shifted")
    gamma_negative: NonNegative = Field(1.0, description="g-: how far the other captions' targets are shifted")
    temperature: Positive | Literal["calibrated"] = Field(
        0.1, description="tau of the weights, in units of the rewards; calibrated: the spread of each step's rewards"
    )
    reward_reduction: Literal["mean", "sum"] = Field(
        "mean", description="over (C, H, W) of the squared errors: mean as the released code, sum as the paper"
    )

    @model_validator(mode="after")
    def _check_temperature(self) -> Self:
        if self.temperature == "calibrated" and self.reward_reduction == "sum":
            raise ValueError("reward_reduction has no effect with a calibrated temperature; remove it")
        return self


class SoftREPAConfig(Frozen):
    """SoftREPA, arXiv 2503.08250: a contrastive loss over the captions of each image."""

    name: Literal["softrepa"] = Field("softrepa", description="SoftREPA's contrastive loss (arXiv 2503.08250)")
    temperature: Positive = Field(0.07, description="tau of the errors, in units of a mean squared error")
    logit_scale: Positive = Field(4.0, description="the factor before the exponential of the error")
    denoising_weight: NonNegative = Field(10.0, description="dweight: weight of the own caption's denoising error")


class ScoreMatchingConfig(Frozen):
    """Plain denoising with psi+: the ablation without negatives."""

    name: Literal["score_matching"] = Field("score_matching", description="plain denoising of the own caption")


def _name(value: Any) -> str:
    """Return which objective a value describes; agsm if it does not say."""
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return "agsm" if name is None else str(name)


ObjectiveConfig = Annotated[
    Annotated[AGSMConfig, Tag("agsm")]
    | Annotated[SoftREPAConfig, Tag("softrepa")]
    | Annotated[ScoreMatchingConfig, Tag("score_matching")],
    Discriminator(_name),
]
OBJECTIVES: dict[str, type[Frozen]] = {
    "agsm": AGSMConfig,
    "softrepa": SoftREPAConfig,
    "score_matching": ScoreMatchingConfig,
}
"""By name; the first where a recipe does not say."""
