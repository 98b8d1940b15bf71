"""AdamW on the soft tokens and the timestep table, with one of three learning-rate schedules."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import MAX_COUNT, Beta, Count, NonNegative, Positive
from softalign.config.presets import RESTART_PERIOD_STEPS


class AdamWConfig(Frozen):
    """What all schedules have in common."""

    learning_rate: Positive = Field(1e-3, description="the learning rate at its peak")
    weight_decay: NonNegative = Field(1e-4, description="AdamW's decoupled weight decay")
    beta1: Beta = Field(0.9, description="AdamW's decay of the gradients' mean, per update")
    beta2: Beta = Field(0.999, description="AdamW's decay of the squared gradients' mean, per update")
    max_grad_norm: Positive | None = Field(
        1.0, description="a gradient with a larger norm is scaled down to it; null: never"
    )
    num_warmup_steps: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        0, description="updates over which the learning rate rises linearly to its peak"
    )


class _FallingConfig(AdamWConfig):
    min_learning_rate: NonNegative = Field(0.0, description="the learning rate at the end of the cosine")

    @model_validator(mode="after")
    def _check_floor(self) -> Self:
        if self.min_learning_rate >= self.learning_rate:
            raise ValueError("min_learning_rate is not below learning_rate, so the schedule has no effect")
        return self


class ConstantConfig(AdamWConfig):
    """The learning rate stays at its peak."""

    schedule: Literal["constant"] = Field("constant", description="the learning rate stays at its peak")


class CosineConfig(_FallingConfig):
    """The learning rate falls along one cosine until the last update."""

    schedule: Literal["cosine"] = Field("cosine", description="the learning rate falls until the last update")


class CosineRestartsConfig(_FallingConfig):
    """The learning rate falls along a cosine again and again, as in the papers."""

    schedule: Literal["cosine_restarts"] = Field(
        "cosine_restarts", description="the learning rate falls, and starts again from its peak"
    )
    min_learning_rate: NonNegative = Field(1e-5, description="the learning rate at the end of each cosine")
    restart_period_steps: Count = Field(
        RESTART_PERIOD_STEPS, description="updates between restarts (the papers' 10 validations, 100 updates apart)"
    )


def _schedule(value: Any) -> str:
    """Return which schedule a value describes; constant if it does not say."""
    schedule = value.get("schedule") if isinstance(value, dict) else getattr(value, "schedule", None)
    return "constant" if schedule is None else str(schedule)


OptimizerConfig = Annotated[
    Annotated[ConstantConfig, Tag("constant")]
    | Annotated[CosineConfig, Tag("cosine")]
    | Annotated[CosineRestartsConfig, Tag("cosine_restarts")],
    Discriminator(_schedule),
]
SCHEDULES: dict[str, type[AdamWConfig]] = {
    "constant": ConstantConfig,
    "cosine": CosineConfig,
    "cosine_restarts": CosineRestartsConfig,
}
"""By name; the first where a recipe does not say."""
