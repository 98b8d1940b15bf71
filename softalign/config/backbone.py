"""The frozen model."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from softalign.artifacts import Family
from softalign.config.base import StageConfig
from softalign.config.families import FAMILIES, is_embedded, misfit


def _default(field: str) -> Any:
    """Return a factory for a field's value by its family; the family's own error is enough where it is none."""

    def value(fields: dict[str, Any]) -> Any:
        return FAMILIES[fields.get("family", "sd15")].defaults.get(f"backbone.{field}")

    return value


class BackboneConfig(StageConfig):
    """The frozen model: ``shapes`` (embedded), a local folder in diffusers layout, or a hub id with its revision.

    The T5 fields belong to the MMDiT families; for U-Nets they must stay unset.
    """

    family: Family = Field("sd15", description="Stable Diffusion 1.5, 2.1, XL (U-Nets), 3, 3.5 (MMDiTs)")
    model: str = Field(
        default_factory=_default("model"),
        description="shapes (the embedded model), a folder in diffusers layout, or a hub id; left open: the family's "
        "published model",
    )
    revision: str | None = Field(None, description="revision of a hub model: a commit, branch or tag; null: the newest")
    vae: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="another VAE of the same latents, by hub id or folder, such as SDXL's fp16-fix; null: the model's",
    )
    resolution_px: Annotated[int, Field(ge=32, multiple_of=8)] = Field(
        512,
        description="side in pixels to which training images are scaled and cropped; a multiple of 16 for MMDiTs",
    )
    has_t5: bool | None = Field(
        default_factory=_default("has_t5"), description="MMDiTs: whether the T5 text encoder is used"
    )
    max_sequence_length: Annotated[int, Field(ge=1, le=512)] | None = Field(
        default_factory=_default("max_sequence_length"),
        description="MMDiTs: positions of T5's part of the text, in tokens; zeros without T5",
    )

    @property
    def is_embedded(self) -> bool:
        """Whether it is the embedded world's model."""
        return is_embedded(self.model)

    @model_validator(mode="after")
    def _check_family(self) -> Self:
        if problem := misfit(self.family, self.model):
            raise ValueError(f"{problem}; correct backbone.family or backbone.model")
        family = FAMILIES[self.family]
        for field in ("has_t5", "max_sequence_length"):
            if not family.has_t5 and getattr(self, field) is not None:
                raise ValueError(f"{field} has no effect with the family {self.family!r}; remove it")
            if family.has_t5 and getattr(self, field) is None:
                raise ValueError(f"{field} is null, but the family {self.family!r} needs it; remove it for the default")
        if self.resolution_px % family.resolution_multiple_px:
            raise ValueError(
                f"resolution_px is {self.resolution_px}, but the family {self.family!r} needs a multiple of "
                f"{family.resolution_multiple_px} (its patches are 2 x 2 latents of 8 x 8 pixels)"
            )
        return self
