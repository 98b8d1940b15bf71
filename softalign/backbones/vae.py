"""The frozen VAE of a backbone: images to latents and back, in float32 whatever the denoiser computes in.

SDXL's VAE overflows in half precision; the others lose nothing by it, and decoding is a small part of sampling.

Shape legend: B images, C H W latents, h w pixels, R resolution in pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from softalign.backbones.base import Backbone
from softalign.backbones.frozen_pipeline import working_device

MAX_PIXELS_PER_CALL = 16 * 512 * 512
"""The VAE's memory grows with the pixels of a call: as much at 1024 px as at 512 px."""


def rows_per_call(resolution_px: int) -> int:
    """Return how many images of a side the VAE is given at once."""
    return max(1, MAX_PIXELS_PER_CALL // resolution_px**2)


@torch.no_grad()
def encode_images(backbone: Backbone, images_B3hw: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B C H W"]:
    """Return the latents (B, C, H, W) of images in [-1, 1].

    They are the posterior's mean, shifted and scaled to unit deviation as the pipeline expects them.
    """
    vae = backbone.pipeline.vae
    mean_BCHW = vae.encode(images_B3hw.to(working_device(vae), vae.dtype)).latent_dist.mode()
    latents_BCHW: Tensor = (mean_BCHW - backbone.latents_shift) * vae.config.scaling_factor
    return latents_BCHW


@torch.no_grad()
def decode_latents(backbone: Backbone, latents_BCHW: Float[Tensor, "B C H W"]) -> NDArray[np.uint8]:
    """Return the images (B, R, R, 3) of latents, as the pipeline would give them."""
    pipeline, vae = backbone.pipeline, backbone.pipeline.vae
    device = working_device(vae)
    decoded = []
    for chunk_BCHW in torch.split(latents_BCHW, rows_per_call(latents_BCHW.shape[-1] * pipeline.vae_scale_factor)):
        unscaled_BCHW = chunk_BCHW.to(device, vae.dtype) / vae.config.scaling_factor + backbone.latents_shift
        images_B3RR = vae.decode(unscaled_BCHW, return_dict=False)[0]
        decoded.append(pipeline.image_processor.postprocess(images_B3RR, output_type="np"))
    pixels: NDArray[np.uint8] = np.rint(np.clip(np.concatenate(decoded), 0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels
