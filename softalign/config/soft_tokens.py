"""Number, place and start of the soft tokens, for U-Nets and for MMDiTs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from softalign.artifacts import Frozen
from softalign.config.base import Count, Positive

LayersEnd = Literal["first", "last"]
"""Which of an MMDiT's joint blocks have soft tokens: its first ones or its last ones."""


class UNetTokensConfig(Frozen):
    """Soft tokens of a U-Net: one set, seen by the chosen blocks (AGSM and SoftREPA, arXiv 2605.30038, 2503.08250)."""

    placement: Literal["unet"] = "unet"
    num_soft_tokens: Count = 4
    blocks: Annotated[tuple[Literal["down", "mid", "up"], ...], Field(min_length=1)] = ("down", "mid")
    position: Literal["after_bos"] = "after_bos"
    num_timestep_bins: Annotated[int, Field(ge=1, le=1000)] = 100
    init: Literal["bos", "normal"] = Field(
        "bos", description="the empty prompt's BOS state, or N(0, init_std), which a Recipe fills in for sdxl"
    )
    init_std: Positive = 0.02

    @field_validator("blocks")
    @classmethod
    def _in_the_denoisers_order(cls, blocks: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(blocks)) != len(blocks):
            raise ValueError("a block is named twice")
        return tuple(part for part in ("down", "mid", "up") if part in blocks)

    @property
    def num_layers(self) -> None:
        """None: all blocks see the same tokens."""
        return None


class MMDiTTokensConfig(Frozen):
    """Soft tokens of an MMDiT: each of the first or last joint blocks has its own (arXiv 2605.30038, 2503.08250: five).

    The paper says "upper" five; the released code, and what was published with it, has them in the first five.
    """

    placement: Literal["mmdit"] = "mmdit"
    num_soft_tokens: Count = 4
    num_layers: Count = 5
    layers: LayersEnd = Field("first", description="which end of the joint blocks; train.objective.preset fills it")
    position: Literal["append"] = "append"
    num_timestep_bins: Annotated[int, Field(ge=1, le=1000)] = 100
    init: Literal["normal"] = "normal"
    init_std: Positive = 0.02


def _placement(value: Any) -> Any:
    """Return which kind of tokens a value describes; a U-Net's if it does not say."""
    return value.get("placement", "unet") if isinstance(value, dict) else getattr(value, "placement", None)


SoftTokensConfig = Annotated[
    Annotated[UNetTokensConfig, Tag("unet")] | Annotated[MMDiTTokensConfig, Tag("mmdit")], Discriminator(_placement)
]
