"""The whole recipe, and what one section says of another: family and preset fill what was left open."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from softalign.artifacts import Frozen
from softalign.config.backbone import BackboneConfig, EncodeConfig
from softalign.config.base import MAX_NAME_CHARS
from softalign.config.curation import CurationConfig
from softalign.config.evaluation import EvalConfig, RegisterConfig
from softalign.config.families import FAMILY_DEFAULTS, UNET_FAMILIES, Family, num_joint_blocks
from softalign.config.presets import (
    layers_default,
    schedule_defaults,
    unconditional_bank_default,
)
from softalign.config.runtime import Runtime
from softalign.config.soft_tokens import MMDiTTokensConfig, UNetTokensConfig
from softalign.config.training import OptimizerConfig, TrainConfig


def _placement_of(family: Family) -> str:
    return "unet" if family in UNET_FAMILIES else "mmdit"


def _given(section: Any, field: str) -> Any:
    """Return what a mapping or model was given for a field; None if nothing."""
    if isinstance(section, BaseModel):
        return getattr(section, field) if field in section.model_fields_set else None
    return section.get(field) if isinstance(section, dict) else None


class Recipe(Frozen):
    """A whole chain, from sources to a registered adapter."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=MAX_NAME_CHARS)]
    curation: CurationConfig
    backbone: BackboneConfig = BackboneConfig()
    encode: EncodeConfig = EncodeConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvalConfig = EvalConfig()
    register_: RegisterConfig = Field(alias="register")
    runtime: Runtime = Runtime()

    @model_validator(mode="before")
    @classmethod
    def _fill_placement(cls, data: Any) -> Any:
        """Say which kind of tokens is meant where the recipe leaves it to the family."""
        family = _given(_given(data, "backbone"), "family") or "sd15"
        train = _given(data, "train")
        train = {} if train is None else train
        tokens = _given(train, "soft_tokens")
        is_open = tokens is None or (isinstance(tokens, dict) and "placement" not in tokens)
        if not isinstance(data, dict) or not isinstance(family, str) or family not in FAMILY_DEFAULTS or not is_open:
            return data
        filled = {**(tokens or {}), "placement": _placement_of(family)}
        if isinstance(train, TrainConfig):
            train = train.model_dump(exclude_unset=True)
        return {**data, "train": {**train, "soft_tokens": filled}} if isinstance(train, dict) else data

    @model_validator(mode="after")
    def _check_placement(self) -> Self:
        expected = _placement_of(self.backbone.family)
        if self.train.soft_tokens.placement != expected:
            raise ValueError(
                f"train.soft_tokens.placement is {self.train.soft_tokens.placement!r}, but the family "
                f"{self.backbone.family!r} needs {expected!r}"
            )
        num_blocks = num_joint_blocks(self.backbone.family, self.backbone.model)
        num_layers = self.train.soft_tokens.num_layers
        if num_layers is not None and num_layers > num_blocks:
            raise ValueError(
                f"train.soft_tokens.num_layers is {num_layers}, but {self.backbone.model} (family "
                f"{self.backbone.family!r}) has at most {num_blocks} joint blocks"
            )
        return self

    @model_validator(mode="after")
    def _resolve_objective(self) -> Self:
        objective = self.train.objective.for_family(self.backbone.family)
        object.__setattr__(self, "train", self.train.model_copy(update={"objective": objective}))
        return self

    @model_validator(mode="after")
    def _resolve_init(self) -> Self:
        soft, init = self.train.soft_tokens, FAMILY_DEFAULTS[self.backbone.family].init
        if isinstance(soft, UNetTokensConfig) and "init" not in soft.model_fields_set:
            resolved = soft.model_copy(update={"init": init})
            object.__setattr__(self, "train", self.train.model_copy(update={"soft_tokens": resolved}))
        return self

    @model_validator(mode="after")
    def _resolve_sampling(self) -> Self:
        family, evaluate = self.backbone.family, self.evaluate
        defaults = FAMILY_DEFAULTS[family]
        numbers = {"num_inference_steps": defaults.num_inference_steps, "guidance_scale": defaults.guidance_scale}
        update: dict[str, Any] = {
            name: value for name, value in numbers.items() if name not in evaluate.model_fields_set
        }
        if evaluate.resolution_px is None:
            update["resolution_px"] = evaluate.side_px(self.backbone)
        elif family not in UNET_FAMILIES and evaluate.resolution_px % 16:
            raise ValueError(
                f"evaluate.resolution_px is {evaluate.resolution_px}, but the family {family!r} needs a multiple of 16"
            )
        evaluate = evaluate.model_copy(update=update)
        if evaluate.reference_guidance_scale == evaluate.guidance_scale:
            raise ValueError(
                f"evaluate.reference_guidance_scale has no effect: {evaluate.guidance_scale} is the arms' guidance; "
                "set it to null, or to another"
            )
        object.__setattr__(self, "evaluate", evaluate)
        return self

    @model_validator(mode="after")
    def _resolve_layers(self) -> Self:
        preset, soft = self.train.objective.preset, self.train.soft_tokens
        if preset is not None and isinstance(soft, MMDiTTokensConfig) and "layers" not in soft.model_fields_set:
            resolved = soft.model_copy(update={"layers": layers_default(preset)})
            object.__setattr__(self, "train", self.train.model_copy(update={"soft_tokens": resolved}))
        return self

    @model_validator(mode="after")
    def _resolve_schedule(self) -> Self:
        preset, optimizer = self.train.objective.preset, self.train.optimizer
        if preset is not None and "schedule" not in optimizer.model_fields_set:
            given = optimizer.model_dump(exclude_unset=True)
            resolved = OptimizerConfig.model_validate(
                {**schedule_defaults(preset, self.train.validate_every_steps), **given}
            )
            object.__setattr__(self, "train", self.train.model_copy(update={"optimizer": resolved}))
        return self

    @model_validator(mode="after")
    def _resolve_unconditional_bank(self) -> Self:
        has_negative_bank = self.train.objective.name == "agsm" and self.train.objective.banks == "dual"
        if self.evaluate.unconditional_bank == "negative" and not has_negative_bank:
            raise ValueError("evaluate.unconditional_bank is negative, but the objective trains no psi-")
        is_left_open = "unconditional_bank" not in self.evaluate.model_fields_set and self.evaluate.guidance_scale > 1.0
        if is_left_open and has_negative_bank:
            bank = unconditional_bank_default(self.train.objective.preset, self.backbone.family)
            object.__setattr__(self, "evaluate", self.evaluate.model_copy(update={"unconditional_bank": bank}))
        return self

    @model_validator(mode="after")
    def _check_hard_negatives(self) -> Self:
        asked, encoded = self.train.negatives.num_hard_of(self.train.batch_size), self.encode.hard_negatives_per_caption
        if asked > encoded:
            raise ValueError(
                f"train.negatives.hard_share asks for {asked} hard negative(s) an image, but "
                f"encode.hard_negatives_per_caption is {encoded}; set it to {asked} or more"
            )
        return self
