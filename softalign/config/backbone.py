"""The frozen model, and what is encoded with it."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from softalign.config.base import MAX_COUNT, StageConfig
from softalign.config.families import FAMILY_DEFAULTS, UNET_FAMILIES, Family, misfit


def _model_default(fields: dict[str, Any]) -> str:
    """Return the published model of a backbone's family; the family's own error is enough where it is none."""
    return FAMILY_DEFAULTS[fields.get("family", "sd15")].model


class BackboneConfig(StageConfig):
    """The frozen model: ``shapes`` (embedded), a local folder in diffusers layout, or a hub id with its revision.

    The T5 fields belong to the MMDiT families; for U-Nets they must stay unset.
    """

    family: Family = "sd15"
    model: str = Field(default_factory=_model_default, description="unset: the family's published model")
    revision: str | None = None
    vae: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="another VAE of the same latents, by hub id or folder, such as SDXL's fp16-fix"
    )
    resolution_px: Annotated[int, Field(ge=32, multiple_of=8)] = 512
    has_t5: bool | None = Field(None, description="MMDiT: whether the T5 text encoder is used (true)")
    max_sequence_length: Annotated[int, Field(ge=1, le=512)] | None = Field(
        None, description="MMDiT: positions of T5's part of the text (256, as diffusers); zeros without T5"
    )

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if problem := misfit(self.family, self.model):
            raise ValueError(f"{problem}; correct backbone.family or backbone.model")
        return self

    @model_validator(mode="after")
    def _check_family(self) -> Self:
        defaults: dict[str, Any] = {"has_t5": True, "max_sequence_length": 256}
        if self.family in UNET_FAMILIES:
            for field in defaults:
                if getattr(self, field) is not None:
                    raise ValueError(f"{field} has no effect with the family {self.family!r}; remove it")
            return self
        for field, value in defaults.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        if self.resolution_px % 16:
            raise ValueError(
                f"resolution_px is {self.resolution_px}, but the family {self.family!r} needs a multiple of 16 "
                "(its patches are 2 x 2 latents of 8 x 8 pixels)"
            )
        return self


class EncodeConfig(StageConfig):
    """What is encoded besides images, captions and the empty caption."""

    hard_negatives_per_caption: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        0, description="edits of each caption, where it has so many, for train.negatives.hard_share to draw from"
    )
