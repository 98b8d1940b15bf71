"""Negatives, optimiser and length of a training run."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import MAX_COUNT, Count, Positive, Ratio, Seed, StageConfig
from softalign.config.objective import ObjectiveConfig
from softalign.config.presets import RESTART_PERIOD_STEPS
from softalign.config.soft_tokens import SoftTokensConfig, UNetTokensConfig


class NegativesConfig(Frozen):
    """Which prompts an image is compared with, besides its own caption."""

    num_negatives: Count | None = Field(None, description="per image; unset: as many as the batch has other captions")
    hard_share: Ratio = Field(
        0.0, description="share of them that are edits of the image's own caption (encode.hard_negatives_per_caption)"
    )
    max_similarity: Ratio = Field(
        0.8, description="captions more alike are not each other's negatives; 1: only equal ones (captions.similarity)"
    )

    def num_of(self, batch_size: int) -> int:
        """Return how many negatives each image gets, if there are as many."""
        return batch_size - 1 if self.num_negatives is None else self.num_negatives

    def num_hard_of(self, batch_size: int) -> int:
        """Return how many of them are hard ones."""
        return math.floor(self.num_of(batch_size) * self.hard_share + 0.5)


class OptimizerConfig(Frozen):
    """AdamW on the soft tokens and the timestep table. Fields of another schedule than the chosen one stay unset."""

    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    max_grad_norm: Positive | None = Field(1.0, description="the gradient is scaled down to it; null: never")
    num_warmup_steps: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    schedule: Literal["constant", "cosine", "cosine_restarts"] = "constant"
    min_learning_rate: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="where a cosine ends (0; with restarts the papers' 1e-5)"
    )
    restart_period_steps: Count | None = Field(
        None, description="cosine_restarts: steps between restarts (1000: the papers' 10 validations, 100 steps apart)"
    )

    @model_validator(mode="after")
    def _fill_schedule(self) -> Self:
        defaults: dict[str, dict[str, Any]] = {
            "constant": {},
            "cosine": {"min_learning_rate": 0.0},
            "cosine_restarts": {"min_learning_rate": 1e-5, "restart_period_steps": RESTART_PERIOD_STEPS},
        }
        own = defaults[self.schedule]
        for field in ("min_learning_rate", "restart_period_steps"):
            if field not in own and getattr(self, field) is not None:
                raise ValueError(f"{field} has no effect with the schedule {self.schedule!r}; remove it")
            if field in own and getattr(self, field) is None:
                object.__setattr__(self, field, own[field])
        if self.min_learning_rate is not None and self.min_learning_rate >= self.learning_rate:
            raise ValueError("min_learning_rate is not below learning_rate, so the schedule has no effect")
        return self


class TrainConfig(StageConfig):
    """One training run of the soft tokens: B images and P prompts, their own captions first, make each step's pairs."""

    soft_tokens: SoftTokensConfig = UNetTokensConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    negatives: NegativesConfig = NegativesConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    num_steps: Count = 1000
    batch_size: Annotated[int, Field(ge=2, le=MAX_COUNT)] = Field(4, description="images per step")
    noise_sharing: Literal["paper", "per_image"] = Field(
        "paper", description="paper: one timestep and noise for the whole batch; per_image: each image its own"
    )
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9999
    validate_every_steps: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        100, description="steps between validation rows in metrics.jsonl; 0: never"
    )
    sample_every_steps: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        0, description="steps between pictures of held-out captions, drawn with fixed noise; 0: never"
    )
    early_stop_patience: Count | None = Field(
        None, description="end after so many validations without a better one; unset: at num_steps alone"
    )
    select: Literal["last", "best"] = Field(
        "last", description="the exported tokens: the last ones, or those of the best validation"
    )
    init_from: str | None = Field(
        None, description="an adapter whose tokens the run starts from, instead of soft_tokens.init; a folder or URI"
    )
    seed: Seed = 0

    @model_validator(mode="after")
    def _check_negatives(self) -> Self:
        chosen = self.negatives
        if self.objective.name == "score_matching" and (chosen.num_negatives is not None or chosen.hard_share > 0):
            raise ValueError("negatives.num_negatives and hard_share have no effect with the objective score_matching")
        num, num_hard = chosen.num_of(self.batch_size), chosen.num_hard_of(self.batch_size)
        if chosen.hard_share > 0 and num_hard == 0:
            raise ValueError(f"negatives.hard_share has no effect: {chosen.hard_share} of {num} negatives is none")
        if num - num_hard > self.batch_size - 1:
            raise ValueError(
                f"negatives.num_negatives asks for {num - num_hard} other captions of a batch of {self.batch_size}, "
                f"which has {self.batch_size - 1}; ask for fewer, or raise batch_size or negatives.hard_share"
            )
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.optimizer.num_warmup_steps >= self.num_steps:
            raise ValueError("optimizer.num_warmup_steps is not below num_steps: the schedule would never begin")
        return self

    @model_validator(mode="after")
    def _check_selection(self) -> Self:
        if self.validate_every_steps == 0 and (self.select == "best" or self.early_stop_patience is not None):
            raise ValueError("select=best and early_stop_patience have no effect without validate_every_steps")
        return self
