"""Editing a picture by two prompts with a flow-matching pipeline: the picture's latents, the pipeline's velocities.

Shape legend: B images, C H W of latents, N prompts.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from softalign.artifacts import Family
from softalign.backbones.base import Backbone
from softalign.backbones.frozen_pipeline import working_device
from softalign.backbones.mmdit import MMDiTBackbone
from softalign.backbones.vae import decode_latents, encode_images
from softalign.config.backbone import BackboneConfig
from softalign.config.families import FAMILIES
from softalign.data.curation.images import UnreadableImageError, decoded_rgb, to_rgb
from softalign.data.encoding.preprocessing import resize_and_crop
from softalign.errors import CompatibilityError, ConfigError, DataError, MissingInputError
from softalign.method.text_states import TextStates
from softalign.processes.reporter import Reporter
from softalign.sampling.flow_edit import FlowEditSettings, Velocity, flow_edit
from softalign.sampling.sampling import trained_side_px

PAPERS_SETTINGS = FlowEditSettings()


def edit_image(
    pipe: Any,
    image: Image.Image | str | Path,
    source_prompt: str,
    target_prompt: str,
    settings: FlowEditSettings = PAPERS_SETTINGS,
    *,
    resolution_px: int | None = None,
    max_sequence_length: int = 256,
) -> Image.Image:
    """Return a picture changed from what one prompt says to what another says, by FlowEdit (arXiv 2412.08629).

    Soft tokens that are loaded into the pipeline act on source and target, and on both branches of their guidance.

    Args:
        pipe: a Stable Diffusion 3 or 3.5 pipeline.
        image: a picture, or the path of a JPEG, PNG or WebP file.
        source_prompt: what the picture shows.
        target_prompt: what it shall show.
        settings: steps, guidance, seed; the paper's for Stable Diffusion 3.
        resolution_px: scale the shorter side to it and crop the centre square; None: the picture as it is.
        max_sequence_length: positions of T5's part of the text.

    Raises:
        CompatibilityError: the pipeline predicts noise, no flow, or its tokens have psi- on the unconditional branch.
        ConfigError: the picture's sides do not fit the model.
        DataError, MissingInputError: the file is no picture; there is none.
    """
    picture = read_picture(Path(image)) if isinstance(image, str | Path) else to_rgb(ImageOps.exif_transpose(image))
    backbone = _backbone_of(pipe, max_sequence_length)
    return edited(backbone, picture, source_prompt, target_prompt, settings, resolution_px)


def read_picture(path: Path) -> Image.Image:
    """Return a picture file as RGB: upright by its EXIF orientation, transparency over white.

    Raises:
        MissingInputError: there is no such file.
        DataError: it is no picture, or a damaged one.
    """
    if not path.is_file():
        raise MissingInputError("There is no such picture.", expected="a JPEG, PNG or WebP file", where=str(path))
    try:
        with decoded_rgb(path.read_bytes()) as picture:
            return picture
    except UnreadableImageError as error:
        raise DataError(
            "This is no picture that can be edited.", expected=error.expected, found=error.found, where=str(path)
        ) from error


def edited(
    backbone: Backbone,
    picture: Image.Image,
    source_prompt: str,
    target_prompt: str,
    settings: FlowEditSettings,
    resolution_px: int | None,
) -> Image.Image:
    """Return a picture edited with a loaded model; see ``edit_image``."""
    if resolution_px is not None:
        picture = resize_and_crop(picture, resolution_px)
    _require_fitting(backbone, picture)
    pixels_HW3 = np.asarray(picture, dtype=np.float32)
    image_13HW = torch.from_numpy(pixels_HW3 / 127.5 - 1.0).permute(2, 0, 1)[None]
    source_1CHW = encode_images(backbone, image_13HW).float()
    own, empty = backbone.encode_for_guidance([source_prompt, target_prompt])
    source = guided_velocity(backbone, own.rows([0]), empty.rows([0]), settings.source_guidance_scale)
    target = guided_velocity(backbone, own.rows([1]), empty.rows([1]), settings.target_guidance_scale)
    scheduler = deepcopy(backbone.pipeline.scheduler)
    scheduler.set_timesteps(settings.num_inference_steps)
    with Reporter("edit", "steps", settings.n_max) as steps:
        latents_1CHW = flow_edit(source_1CHW, scheduler.sigmas, source, target, settings, steps.reach)
    return Image.fromarray(decode_latents(backbone, latents_1CHW)[0])


def guided_velocity(backbone: Backbone, own: TextStates, empty: TextStates, guidance_scale: float) -> Velocity:
    """Return the velocity for prompts, in float32: with guidance ``empty + scale * (own - empty)``.

    Args:
        backbone: an MMDiT.
        own: the states of each image's prompt.
        empty: those of the unconditional branch, as many.
        guidance_scale: 1: the prompts' own velocity.
    """
    denoiser = cast(Any, backbone.denoiser)
    num_timesteps = backbone.pipeline.scheduler.config.num_train_timesteps
    branches = [own] if guidance_scale == 1.0 else [empty, own]
    tensors = zip(*(branch.tensors() for branch in branches), strict=True)
    device, dtype = working_device(denoiser), denoiser.dtype
    texts_NLD, pooled_NP = (torch.cat(part).to(device, dtype) for part in tensors)

    def velocity(noisy_BCHW: Tensor, sigma: float) -> Tensor:
        noisy_NCHW = noisy_BCHW.to(device, dtype).repeat(len(branches), 1, 1, 1)
        predicted_NCHW = denoiser(
            hidden_states=noisy_NCHW,
            encoder_hidden_states=texts_NLD,
            pooled_projections=pooled_NP,
            timestep=torch.full((len(noisy_NCHW),), sigma, device=device) * num_timesteps,
            return_dict=False,
        )[0].to(noisy_BCHW)
        parts: tuple[Tensor, ...] = predicted_NCHW.chunk(len(branches))
        return parts[0] if len(parts) == 1 else parts[0] + guidance_scale * (parts[1] - parts[0])

    return velocity


def _require_fitting(backbone: Backbone, picture: Image.Image) -> None:
    config = cast(Any, backbone.denoiser).config
    multiple = backbone.pipeline.vae_scale_factor * config.patch_size
    largest = config.pos_embed_max_size * multiple
    if any(side % multiple or not 0 < side <= largest for side in picture.size):
        raise ConfigError(
            "The picture's sides do not fit the model.",
            expected=f"multiples of {multiple} up to {largest} px",
            found=f"{picture.width} x {picture.height} px",
            fix=f"scale or crop it, or let its centre square be taken: --resolution-px (resolution_px), "
            f"for this model {trained_side_px(backbone)}",
        )


def require_flow(family: Family) -> None:
    """Refuse a family whose denoiser predicts no flow.

    Raises:
        CompatibilityError: it predicts noise.
    """
    predicted = FAMILIES[family].prediction_type
    if predicted != "flow":
        raise _no_flow(f"{family}, which predicts {'noise' if predicted == 'epsilon' else predicted}")


def _no_flow(found: str) -> CompatibilityError:
    return CompatibilityError(
        "FlowEdit follows the velocity of a flow from noise to images, which this model does not predict.",
        expected=" or ".join(name for name, record in FAMILIES.items() if record.prediction_type == "flow"),
        found=found,
        fix="edit with a flow-matching model such as Stable Diffusion 3, and an adapter trained for it",
    )


def _backbone_of(pipe: Any, max_sequence_length: int) -> MMDiTBackbone:
    transformer, kind = getattr(pipe, "transformer", None), type(pipe).__name__
    if transformer is None:
        raise _no_flow(f"{kind}, which predicts noise")
    families = {record.qk_norm: family for family, record in FAMILIES.items() if not record.is_unet}
    family = families.get(transformer.config.get("qk_norm"))
    if family is None or not hasattr(pipe, "text_encoder_3"):
        raise _no_flow(kind)
    has_t5 = pipe.text_encoder_3 is not None
    config = BackboneConfig(family=family, model=kind, has_t5=has_t5, max_sequence_length=max_sequence_length)
    return MMDiTBackbone(pipe, config)
