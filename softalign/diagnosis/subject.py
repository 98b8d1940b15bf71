"""What is diagnosed: an adapter's tokens in its base model's denoiser, and the text encoder beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from softalign.adapters.attach import load_soft_tokens
from softalign.adapters.files import AdapterConfig, MMDiTPlacement, Placement, load_adapter, read_adapter_config
from softalign.artifacts import read_known
from softalign.backbones.base import Backbone, Denoiser
from softalign.backbones.loading import load_backbone
from softalign.backbones.vae import encode_images
from softalign.config.backbone import BackboneConfig
from softalign.config.families import FAMILIES
from softalign.config.soft_tokens import MMDiTTokensConfig, SoftTokensConfig, UNetTokensConfig
from softalign.config.training import TrainConfig
from softalign.data.encoding.text_sources import OnlineTexts
from softalign.diagnosis.records import Arm
from softalign.errors import IntegrityError
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates
from softalign.store.adapter_files import CONFIG_FILENAME, INITIAL_FOLDER, TRAIN_CONFIG_FILENAME


@dataclass(frozen=True, eq=False)
class Subject:
    """An adapter in its denoiser.

    Attributes:
        denoiser: the frozen module.
        placement: where tokens enter.
        tokens: the trained ones, and those of step 0 where the adapter has them.
        ema: the averaged ones, which judge in training; the trained ones where there are none.
        training: how it was trained; None where the adapter does not say.
        encode_texts: text states of prompts, on the CPU.
        device: where the denoiser computes.
    """

    denoiser: Denoiser
    placement: Placement
    tokens: dict[Arm, SoftTokens]
    ema: SoftTokens
    training: TrainConfig | None
    encode_texts: Callable[[Sequence[str]], TextStates]
    device: torch.device


@dataclass(frozen=True, eq=False)
class LoadedSubject:
    """A subject, its encoders as training has them, their text states, and the VAE's latents of images in [-1, 1]."""

    subject: Subject
    encoders: Backbone
    texts: OnlineTexts
    encode_images: Callable[[Float[Tensor, "B 3 h w"]], Float[Tensor, "B C H W"]]


def load_subject(
    folder: Path, base: BackboneConfig, *, device: torch.device, dtype: torch.dtype, is_forced: bool = False
) -> LoadedSubject:
    """Load an adapter's base model and attach its tokens as training does.

    Args:
        folder: the adapter's.
        base: its base model.
        device: where all of it computes.
        dtype: of the denoiser; VAE and text encoders compute in float32.
        is_forced: accept a base model that the adapter does not know.

    Raises:
        CompatibilityError: the base model is not the adapter's.
        IntegrityError: a file of the adapter is damaged.
    """
    config = read_adapter_config(folder)
    tokens = load_adapter(folder).to(device)
    frozen = load_backbone(base, device=device, dtype=dtype, parts=("denoiser",))
    load_soft_tokens(frozen.pipeline, folder, force=is_forced).unload()  # refuses what does not fit
    encoders = load_backbone(base, device=device, dtype=torch.float32, parts=("vae", "text"))
    if not FAMILIES[base.family].is_unet:
        encoders.pipeline.transformer = frozen.denoiser  # says how wide the zeros are that stand for T5
    texts = OnlineTexts(encoders)
    initial = folder / INITIAL_FOLDER
    known: dict[Arm, SoftTokens] = {"adapter": tokens}
    if (initial / CONFIG_FILENAME).is_file():
        known["untrained"] = load_adapter(initial).to(device)
    subject = Subject(
        denoiser=frozen.training_denoiser(_tokens_config(config), tokens),
        placement=config.placement,
        tokens=known,
        ema=load_adapter(folder, use_ema=True).to(device) if config.has_ema else tokens,
        training=_training_of(folder),
        encode_texts=texts.states,
        device=device,
    )
    return LoadedSubject(subject, encoders, texts, lambda images_B3hw: encode_images(encoders, images_B3hw))


def _tokens_config(config: AdapterConfig) -> SoftTokensConfig:
    placement = config.placement
    if isinstance(placement, MMDiTPlacement):
        return MMDiTTokensConfig(num_layers=placement.num_layers, layers=placement.layers)
    return UNetTokensConfig(blocks=placement.blocks)


def _training_of(folder: Path) -> TrainConfig | None:
    path = folder / TRAIN_CONFIG_FILENAME
    if not path.is_file():
        return None
    try:
        return read_known(TrainConfig, json.loads(path.read_text(encoding="utf-8")))[0]
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{TRAIN_CONFIG_FILENAME} does not describe a training this version can read.",
            found=str(error)[:200],
            where=str(path),
            fix="fetch the adapter again, or remove the file: the gradients are left out then",
        ) from error
