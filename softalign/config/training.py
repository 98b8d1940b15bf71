"""Negatives, optimiser and length of a training run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from softalign.artifacts import Frozen, digest_of
from softalign.config.base import MAX_COUNT, Count, Ratio, Seed, StageConfig
from softalign.config.objective import AGSMConfig, ObjectiveConfig
from softalign.config.optimizer import ConstantConfig, OptimizerConfig
from softalign.config.soft_tokens import SoftTokensConfig, UNetTokensConfig

EditKind = Literal["count", "color", "position", "object"]
"""Which fact an edit of a caption replaces."""
EDIT_KINDS: tuple[EditKind, ...] = get_args(EditKind)
CountEdits = Literal["around", "above", "below"]
"""Which counts an edit puts in the place of the true one."""
LATER_NEGATIVES = ("kinds", "counts")
"""Left out of requests and files where they are the default: these are as they were before there were any."""


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
    kinds: Annotated[tuple[EditKind, ...], Field(min_length=1)] = Field(
        EDIT_KINDS, description="which facts the num_hard edits replace; they take turns"
    )
    counts: CountEdits = Field(
        "around",
        description="edits of counts: to numbers above the true one, below it, or around: both; never below two, since "
        "two dogs are also a dog",
    )
    max_similarity: Ratio = Field(
        0.8, description="captions more alike are not each other's negatives (captions.similarity); 1: only equal ones"
    )

    @field_validator("kinds")
    @classmethod
    def _in_order(cls, kinds: tuple[EditKind, ...]) -> tuple[EditKind, ...]:
        if len(set(kinds)) != len(kinds):
            raise ValueError("a kind is named twice")
        return tuple(kind for kind in EDIT_KINDS if kind in kinds)

    @model_validator(mode="after")
    def _check_edits(self) -> Self:
        if self.num_hard == 0 and (self.kinds != EDIT_KINDS or self.counts != "around"):
            raise ValueError("kinds and counts say how captions are edited; they have no effect without num_hard")
        if "count" not in self.kinds and self.counts != "around":
            raise ValueError("counts has no effect: kinds does not name count")
        return self

    @property
    def unasked(self) -> set[str]:
        """The fields that requests and files leave out: see LATER_NEGATIVES."""
        return {name for name in LATER_NEGATIVES if getattr(self, name) == type(self).model_fields[name].default}

    def asked_edits(self) -> dict[str, Any]:
        """Return what says which edits of captions are encoded, as a request has it."""
        return self.model_dump(mode="json", include={"num_hard", *LATER_NEGATIVES} - self.unasked)

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

    @property
    def unasked(self) -> dict[str, set[str]]:
        """What requests and files leave out, as pydantic's ``exclude``."""
        return {"negatives": self.negatives.unasked, "soft_tokens": self.soft_tokens.unasked}

    def asked(self) -> dict[str, Any]:
        """Return the fields as a request has them."""
        return self.model_dump(mode="json", exclude=self.unasked)

    @property
    def digest(self) -> str:
        """The digest of what is asked for."""
        return digest_of([type(self).__name__, self.asked()])

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
