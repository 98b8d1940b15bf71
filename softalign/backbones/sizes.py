"""How large one latent, one text encoding and the soft tokens of a backbone are, without loading it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softalign.artifacts import Family
from softalign.backbones.locating import model_folder
from softalign.config.backbone import BackboneConfig
from softalign.config.families import FAMILIES, num_joint_blocks
from softalign.errors import DataError, MissingInputError

CLIP_LENGTH = 77
"""Positions of CLIP's text sequence."""
VAE_FACTOR = 8
"""Pixels per latent of every published model's VAE."""


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Numbers of values: of a latent, of a text's states and pooled states, and the width of a soft token."""

    latent: int
    text: int
    token_width: int


HEAD_WIDTH = 64
"""Of the published MMDiTs, which have as many heads as joint blocks; U-Nets' tokens are as wide as their text."""


def model_sizes(backbone: BackboneConfig) -> ModelSizes:
    """Return a backbone's sizes: from its local folder, or what is published of its family.

    Raises:
        MissingInputError: the folder lacks a component's configuration.
        DataError: a configuration cannot be used.
    """
    folder = model_folder(backbone)
    if folder is None:
        published = FAMILIES[backbone.family]
        length = CLIP_LENGTH + (backbone.max_sequence_length or 0)
        return ModelSizes(
            latent=published.latent_channels * (backbone.resolution_px // VAE_FACTOR) ** 2,
            text=length * published.text_width + published.pooled_width,
            token_width=published_token_width(backbone.family, backbone.model),
        )
    try:
        return _folder_sizes(folder, backbone)
    except FileNotFoundError as error:
        raise MissingInputError(
            "The base model's folder is incomplete.",
            expected=f"a model of the family {backbone.family} in diffusers layout",
            found=f"no {Path(error.filename).relative_to(folder)}",
            where=str(folder),
            fix="correct backbone.model or backbone.family",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            "A configuration in the base model's folder cannot be used.",
            found=f"{type(error).__name__}: {error}",
            where=str(folder),
            fix="restore the model's config.json files",
        ) from error


def published_token_width(family: Family, model: str) -> int:
    """Return the width of a soft token of a published model."""
    return HEAD_WIDTH * num_joint_blocks(family, model) or FAMILIES[family].text_width


def _folder_sizes(folder: Path, backbone: BackboneConfig) -> ModelSizes:
    vae = _read_json(folder / "vae")
    side = backbone.resolution_px // 2 ** (len(vae["block_out_channels"]) - 1)
    length = _read_json(folder / "text_encoder")["max_position_embeddings"] + (backbone.max_sequence_length or 0)
    text_width, pooled_width, token_width = _widths(folder, backbone.family)
    return ModelSizes(
        latent=vae["latent_channels"] * side * side, text=length * text_width + pooled_width, token_width=token_width
    )


def _widths(folder: Path, family: Family) -> tuple[int, int, int]:
    """Return the widths of text states, pooled states and soft tokens that a folder's denoiser reads."""
    if FAMILIES[family].is_unet:
        width = int(_read_json(folder / "unet")["cross_attention_dim"])
        pooled = int(_read_json(folder / "text_encoder_2")["projection_dim"]) if FAMILIES[family].has_pooled_text else 0
        return width, pooled, width
    transformer = _read_json(folder / "transformer")
    names = ("joint_attention_dim", "pooled_projection_dim", "caption_projection_dim")
    text, pooled, token = (int(transformer[name]) for name in names)
    return text, pooled, token


def _read_json(component: Path) -> Any:
    return json.loads((component / "config.json").read_text(encoding="utf-8"))
