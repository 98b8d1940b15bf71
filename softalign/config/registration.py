"""The sections of a recipe that say where an adapter is registered, and when it becomes champion."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import MAX_NAME_CHARS, StageConfig

LEDGER_SUFFIX = ".history"
"""The history of the model NAME is the registered model NAME.history."""
GUARD_PATTERN = (
    r"^(overall_(base|untrained|adapter|champion)|num_images_per_arm|denoiser_calls_per_image|"
    r"adapter_vs_(base|untrained|champion)/\w[\w .:-]*(/ci_low|/ci_high)?)$"
)


class Guard(Frozen):
    """A bound that a number of the comparison must keep, whatever else the gate finds."""

    metric: Annotated[str, Field(pattern=GUARD_PATTERN)] = Field(
        description="a number of the comparison, such as overall_adapter or adapter_vs_base/counting/ci_low"
    )
    at_least: float | None = Field(None, description="the lowest value that passes; differences are ratios")
    at_most: float | None = Field(None, description="the highest value that passes")

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a guard has one bound: at_least or at_most")
        return self


class PromotionPolicy(Frozen):
    """When a candidate becomes champion; differences are paired by prompt and image, in score points (ratios)."""

    min_overall_gain: float = Field(
        0.0, description="the candidate's overall gain over the base must be at least this many score points (ratio)"
    )
    requires_significant_gain: bool = Field(
        True,
        description="the gain's interval must exclude 0, and with must_beat_untrained that over untrained tokens too",
    )
    max_tag_drop: Annotated[float, Field(ge=0.0)] = Field(
        0.05, description="no tag may fall by more score points (ratio)"
    )
    must_beat_untrained: bool = Field(True, description="the overall gain over untrained tokens must be above 0")
    max_drop_below_champion: Annotated[float, Field(ge=0.0)] = Field(
        0.02,
        description="in pairs with the champion, the interval of the overall difference must not reach further below 0 "
        "(ratio)",
    )
    max_tag_drop_below_champion: Annotated[float, Field(ge=0.0)] = Field(
        0.05, description="in pairs with the champion, no tag may fall by more score points (ratio)"
    )
    min_images: Annotated[int, Field(ge=0)] = Field(0, description="fewer images an arm decide nothing; 0: any number")
    guards: tuple[Guard, ...] = Field((), description="bounds that numbers of the comparison must keep")


class RegisterConfig(StageConfig):
    """Where and under which name the adapter is registered, and the promotion gate."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME_CHARS)] = Field(
        description="of the registered model"
    )
    experiment: str = Field("softalign", description="MLflow's experiment that the run is recorded in")
    policy: PromotionPolicy = Field(PromotionPolicy(), description="when a candidate becomes champion")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name.endswith(LEDGER_SUFFIX):
            raise ValueError(f"a name that ends in {LEDGER_SUFFIX} is another model's history")
        return name
