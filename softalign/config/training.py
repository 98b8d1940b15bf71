"""Negatives, optimiser and length of a training run."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import MAX_COUNT, Count, Ratio, Seed, StageConfig
from softalign.config.objective import AGSMConfig, ObjectiveConfig
from softalign.config.optimizer import ConstantConfig, OptimizerConfig
from softalign.config.soft_tokens import SoftTokensConfig, UNetTokensConfig


class NegativesConfig(Frozen):
    """Which prompts an image is compared with, besides its own caption."""

    num_negatives: Count | None = Field(
        None, description="captions that each image is compared with, hard ones included; null: batch_size - 1"
    )
    num_hard: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        0,
        description="how many of them are edits of the image's own caption in count, colour, position or object; so "
        "many edits of each caption are encoded, where it has so many",
    )
    max_similarity: Ratio = Field(
        0.8, description="captions more alike are not each other's negatives (captions.similarity); 1: only equal ones"
    )

    def num_of(self, batch_size: int) -> int:
        """Return how many negatives each image gets, if there are as many."""
        return batch_size - 1 if self.num_negatives is None else self.num_negatives


class TrainConfig(StageConfig):
    """One training run of the soft tokens: B images and P prompts, their own captions first, make each step's pairs."""

    soft_tokens: SoftTokensConfig = Field(
        UNetTokensConfig(), description="number, place and start of the soft tokens; their kind follows backbone.family"
    )
    objective: ObjectiveConfig = Field(AGSMConfig(), description="the loss; its fields follow its name")
    negatives: NegativesConfig = Field(NegativesConfig(), description="which captions an image is compared with")
    optimizer: OptimizerConfig = Field(ConstantConfig(), description="AdamW; its fields follow its schedule")
    num_steps: Count = Field(1000, description="updates of the tokens")
    batch_size: Annotated[int, Field(ge=2, le=MAX_COUNT)] = Field(
        4, description="images per update, however many processes share them"
    )
    noise_sharing: Literal["shared", "per_image"] = Field(
        "shared",
        description="shared: one timestep and noise for the whole batch, as the papers; per_image: each its own",
    )
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.9999, description="how much of the averaged tokens stays at each update"
    )
    validate_every_steps: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        100, description="updates between validation rows in metrics.jsonl; 0: never"
    )
    sample_every_steps: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        0, description="updates between pictures of held-out captions, drawn with fixed noise; 0: never"
    )
    early_stop_patience: Count | None = Field(
        None, description="the run ends after so many validations without a better one; null: at num_steps alone"
    )
    export_step: Literal["last", "best"] = Field(
        "last", description="the exported tokens: those of the last update, or those of the best validation"
    )
    init_from: str | None = Field(
        None, description="folder or URI of an adapter whose tokens the run starts from; null: they are drawn"
    )
    seed: Seed = Field(0, description="of the tokens' start, the order of images, their captions and noise")

    @model_validator(mode="after")
    def _check_negatives(self) -> Self:
        num, num_hard = self.negatives.num_of(self.batch_size), self.negatives.num_hard
        if self.objective.name == "score_matching" and (self.negatives.num_negatives is not None or num_hard > 0):
            raise ValueError("negatives.num_negatives and num_hard have no effect with the objective score_matching")
        if num_hard > num:
            raise ValueError(f"negatives.num_hard is {num_hard}, but each image has {num} negatives in all")
        if num - num_hard > self.batch_size - 1:
            raise ValueError(
                f"negatives.num_negatives asks for {num - num_hard} other captions of a batch of {self.batch_size}, "
                f"which has {self.batch_size - 1}; ask for fewer, or raise batch_size or negatives.num_hard"
            )
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.optimizer.num_warmup_steps >= self.num_steps:
            raise ValueError("optimizer.num_warmup_steps is not below num_steps: the schedule would never begin")
        return self

    @model_validator(mode="after")
    def _check_selection(self) -> Self:
        if self.validate_every_steps == 0 and (self.export_step == "best" or self.early_stop_patience is not None):
            raise ValueError("export_step=best and early_stop_patience have no effect without validate_every_steps")
        return self
