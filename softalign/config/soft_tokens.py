"""Number, place and start of the soft tokens, for U-Nets and for MMDiTs; which of them follows the family."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator

from softalign.artifacts import Frozen
from softalign.config.base import Count, Positive
from softalign.config.families import DenoiserKind

LayersEnd = Literal["first", "last"]
"""Which of an MMDiT's joint blocks have soft tokens: its first ones or its last ones."""
KIND_KEY = "(kind)"
"""A mapping's key that says for which kind of denoiser tokens are: no field, since a recipe's family says it."""


class _TokensConfig(Frozen):
    kind: ClassVar[DenoiserKind]
    kind_name: ClassVar[str]

    num_soft_tokens: Count = Field(4, description="soft tokens in each bank")
    num_timestep_bins: Annotated[int, Field(ge=1, le=1000)] = Field(
        100, description="rows of the timestep table: the 1000 training timesteps in so many equal bins"
    )
    init_std: Positive = Field(0.02, description="standard deviation of what is drawn for tokens and timestep table")


class UNetTokensConfig(_TokensConfig):
    """Soft tokens of a U-Net: one set, seen by the chosen blocks (AGSM and SoftREPA, arXiv 2605.30038, 2503.08250)."""

    kind: ClassVar[DenoiserKind] = "unet"
    kind_name: ClassVar[str] = "a U-Net"

    blocks: Annotated[tuple[Literal["down", "mid", "up"], ...], Field(min_length=1)] = Field(
        ("down", "mid"),
        description="the U-Net's parts whose cross attention sees the tokens, behind the first position",
    )
    init: Literal["bos", "normal"] = Field(
        "bos", description="what the tokens start from: the empty prompt's BOS state, or N(0, init_std)"
    )

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

    @property
    def unasked(self) -> set[str]:
        """None: see ``MMDiTTokensConfig``."""
        return set()


class MMDiTTokensConfig(_TokensConfig):
    """Soft tokens of an MMDiT: each of the first or last joint blocks has its own (arXiv 2605.30038, 2503.08250: five).

    The paper says "upper" five; the released code, and what was published with it, has them in the first five.
    """

    kind: ClassVar[DenoiserKind] = "mmdit"
    kind_name: ClassVar[str] = "an MMDiT"

    num_layers: Count = Field(5, description="joint blocks that have tokens of their own, at the end of their text")
    layers: LayersEnd = Field("first", description="which joint blocks these are: the first or the last ones")
    init: Literal["normal", "padding"] = Field(
        "normal",
        description="what the tokens start from: N(0, init_std), or the empty prompt's last state before each block, "
        "brought to init_std, with a timestep table of zeros: padding, which the model knows to pass over",
    )

    @property
    def unasked(self) -> set[str]:
        """The fields that requests and files leave out, as there were none of them: where they are the default."""
        return {"init"} if self.init == "normal" else set()


def _kind(value: Any) -> str:
    """Return for which kind of denoiser a value's tokens are; a U-Net's if it does not say."""
    if not isinstance(value, dict):
        return str(getattr(value, "kind", "unet"))
    return str(value.get(KIND_KEY) or ("mmdit" if value.keys() & {"num_layers", "layers"} else "unet"))


def _without_kind(value: Any) -> Any:
    return {key: inner for key, inner in value.items() if key != KIND_KEY} if isinstance(value, dict) else value


SoftTokensConfig = Annotated[
    Annotated[UNetTokensConfig, BeforeValidator(_without_kind), Tag("unet")]
    | Annotated[MMDiTTokensConfig, BeforeValidator(_without_kind), Tag("mmdit")],
    Discriminator(_kind),
]
TOKENS: dict[str, type[_TokensConfig]] = {"unet": UNetTokensConfig, "mmdit": MMDiTTokensConfig}
"""By the kind of denoiser."""
