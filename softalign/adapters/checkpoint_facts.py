"""What is known of a peer's checkpoint beyond the papers' files: stated by who converts it, or by the file itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from softalign.adapters.peer_bases import PeerFamily
from softalign.adapters.peer_files import PeerCheckpoint
from softalign.config.families import FAMILIES
from softalign.config.soft_tokens import LayersEnd
from softalign.errors import CompatibilityError, ConfigError

Block = Literal["down", "mid", "up"]


@dataclass(frozen=True)
class CheckpointFacts:
    """What is known of a checkpoint and not in its files; None: as in the published one.

    Attributes:
        blocks: U-Nets: the parts that see the tokens.
        layers: SD3: at which end of the joint blocks the layers with tokens are; their number is the file's.
        num_banks: 2 with psi-, else 1.
        has_table: whether the tokens were trained with a timestep table; False leaves out a file that is there.
    """

    blocks: tuple[Block, ...] | None = None
    layers: LayersEnd | None = None
    num_banks: int | None = None
    has_table: bool | None = None


def blocks_of(text: str) -> tuple[Block, ...]:
    """Return the parts of a U-Net that a text such as ``down,mid`` names, in the denoiser's order.

    Raises:
        ConfigError: another word, one twice, or none.
    """
    names = [name.strip() for name in text.split(",")]
    parts: tuple[Block, ...] = get_args(Block)
    if not set(names) <= set(parts) or len(set(names)) != len(names):
        raise ConfigError(
            "The blocks cannot be read.",
            expected=f"one or more of {', '.join(parts)}, each once, such as down,mid",
            found=text,
            where="--blocks",
        )
    return tuple(part for part in parts if part in names)


def check_facts(facts: CheckpointFacts, family: PeerFamily) -> None:
    """Refuse what no checkpoint of the family has: it would say nothing.

    Raises:
        ConfigError: a fact is one.
    """
    if facts.num_banks not in (None, 1, 2):
        raise ConfigError("There is no such number of banks.", expected="1 or 2", found=str(facts.num_banks))
    if not FAMILIES[family].is_unet and facts.blocks is not None:
        raise ConfigError(
            "SD3 has no down, mid and up blocks.", found="--blocks", fix="leave it out; --layers says which end"
        )
    if FAMILIES[family].is_unet and facts.layers is not None:
        raise ConfigError(
            "A U-Net's tokens have no layers.", found="--layers", fix="leave it out; --blocks says which parts"
        )


def with_stated(facts: CheckpointFacts, found: PeerCheckpoint, family: PeerFamily) -> CheckpointFacts:
    """Return the facts with what the file itself states, where the user does not.

    Raises:
        CompatibilityError: it states another family.
    """
    stated = found.stated
    if stated.get("family", family) != family:
        raise CompatibilityError(
            "The checkpoint is of another family.",
            expected=family,
            found=stated["family"],
            where=str(found.tokens_path),
            fix=f"use --backbone {stated['family']}",
        )
    blocks = blocks_of(stated["blocks"]) if "blocks" in stated and facts.blocks is None else facts.blocks
    is_first = stated.get("layers") == "first" and facts.layers is None
    return replace(facts, blocks=blocks, layers="first" if is_first else facts.layers)
