"""What a peer's tokens must fit: the published base models of SoftREPA and AGSM, or a local one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from softalign.adapters.base_fingerprint import BaseFingerprint, fingerprint_of
from softalign.backbones.sizes import published_token_width
from softalign.config.families import FAMILIES
from softalign.errors import CompatibilityError, MissingInputError

PeerFamily = Literal["sd15", "sdxl", "sd3"]
"""The backbones that the two projects have checkpoints for."""
OLD_SD3_WIDTH = 4096
"""Width of SD3's text ahead of the context embedder, and of older tokens."""


@dataclass(frozen=True)
class Base:
    """What the tokens must fit; ``embedder`` and ``num_layers`` are SD3's, ``fingerprint`` is None without a model."""

    model: str
    width: int
    fingerprint: BaseFingerprint | None = None
    embedder: nn.Linear | None = None
    num_layers: int | None = None


def published_base(family: PeerFamily) -> Base:
    """Return what is known of a family's published model without its files."""
    model: str = FAMILIES[family].defaults["backbone.model"]
    return Base(model, published_token_width(family, model))


def read_base(folder: Path, family: PeerFamily) -> Base:
    """Return what a local base model's denoiser says about its tokens.

    Raises:
        MissingInputError: no such folder, or no denoiser of the family in it.
        CompatibilityError: an MMDiT of another family.
    """
    from softalign.backbones.unet import text_width

    denoiser = _read_denoiser(folder, family)
    if FAMILIES[family].is_unet:
        return Base(str(folder), text_width(denoiser), fingerprint_of(denoiser))
    if denoiser.config.qk_norm != FAMILIES[family].qk_norm:
        raise CompatibilityError(
            "The base model is of another family.",
            expected=f"qk_norm {FAMILIES[family].qk_norm} ({family})",
            found=f"qk_norm {denoiser.config.qk_norm}",
            where=str(folder),
        )
    return Base(
        str(folder),
        int(denoiser.config.caption_projection_dim),
        fingerprint_of(denoiser),
        denoiser.context_embedder,
        len(denoiser.transformer_blocks),
    )


def _read_denoiser(folder: Path, family: PeerFamily) -> Any:
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel

    is_unet = FAMILIES[family].is_unet
    kind: Any = UNet2DConditionModel if is_unet else SD3Transformer2DModel
    subfolder = "unet" if is_unet else "transformer"
    if not (folder / subfolder / "config.json").is_file():
        raise MissingInputError(
            "This is no base model of the family.",
            expected=f"a local folder in diffusers layout with {subfolder}/ ({family})",
            where=str(folder),
        )
    try:
        return kind.from_pretrained(folder, subfolder=subfolder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise MissingInputError(
            "The base model cannot be loaded.", found=str(error).splitlines()[0], where=str(folder / subfolder)
        ) from error
