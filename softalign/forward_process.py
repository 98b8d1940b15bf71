"""Noise, timesteps and what the denoiser shall predict (DDPM backbones), in the order of the equations.

Draws come from generators keyed by (seed, samples_seen), so a batch has the same noise at any micro-batch size, on any
device and after a restart.

Shape legend: B images, C H W latents.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from softalign.soft_tokens import NUM_TRAIN_TIMESTEPS

PredictionType = Literal["epsilon", "v_prediction"]
NoiseSharing = Literal["paper", "per_image"]


@dataclass(frozen=True)
class NoiseDraw:
    """One timestep and one noise per image; ``paper`` shares both over the batch."""

    timesteps_B: Tensor
    noise_BCHW: Tensor


@dataclass(frozen=True)
class NoisyBatch:
    """What the denoiser sees and what it shall answer."""

    timesteps_B: Tensor
    noisy_latents_BCHW: Tensor
    target_BCHW: Tensor


def keyed_generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator that depends on the key alone."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw_noise(
    shape_BCHW: tuple[int, int, int, int], *, sharing: NoiseSharing, seed: int, samples_seen: int
) -> NoiseDraw:
    """Draw timesteps uniformly from 0..999 and noise from N(0, 1), on the CPU, in float32.

    Args:
        shape_BCHW: shape of the batch's latents.
        sharing: ``paper``: one draw for the batch (AGSM, algorithm 1); ``per_image``: one for each image.
        seed: the run's seed.
        samples_seen: images seen before this batch.
    """
    num_images, *latent_shape = shape_BCHW
    num_draws = 1 if sharing == "paper" else num_images
    generators = [keyed_generator("noise", seed, samples_seen + index) for index in range(num_draws)]
    timesteps = [torch.randint(NUM_TRAIN_TIMESTEPS, (1,), generator=generator) for generator in generators]
    noise = [torch.randn(1, *latent_shape, generator=generator) for generator in generators]
    return NoiseDraw(
        timesteps_B=torch.cat(timesteps).expand(num_images).clone(),
        noise_BCHW=torch.cat(noise).expand(num_images, *latent_shape).clone(),
    )


def noisy_latents(latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_B: Tensor) -> Tensor:
    """Return ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise`` (DDPM, arXiv 2006.11239, eq. 4)."""
    signal, sigma = _coefficients(alphas_cumprod_B)
    return signal * latents_BCHW + sigma * noise_BCHW


def velocity(latents_BCHW: Tensor, noise_BCHW: Tensor, alphas_cumprod_B: Tensor) -> Tensor:
    """Return ``v = sqrt(a_t) noise - sqrt(1 - a_t) x_0`` (arXiv 2202.00512, appendix D)."""
    signal, sigma = _coefficients(alphas_cumprod_B)
    return signal * noise_BCHW - sigma * latents_BCHW


def diffuse(
    latents_BCHW: Tensor, draw: NoiseDraw, alphas_cumprod_T: Tensor, prediction_type: PredictionType
) -> NoisyBatch:
    """Return the noisy latents at the drawn timesteps and the target of that kind of denoiser."""
    alphas_B = alphas_cumprod_T[draw.timesteps_B].to(latents_BCHW)
    noise_BCHW = draw.noise_BCHW.to(latents_BCHW)
    if prediction_type == "epsilon":
        target_BCHW = noise_BCHW
    else:
        target_BCHW = velocity(latents_BCHW, noise_BCHW, alphas_B)
    return NoisyBatch(
        timesteps_B=draw.timesteps_B.to(latents_BCHW.device),
        noisy_latents_BCHW=noisy_latents(latents_BCHW, noise_BCHW, alphas_B),
        target_BCHW=target_BCHW,
    )


def _coefficients(alphas_cumprod_B: Tensor) -> tuple[Tensor, Tensor]:
    alphas = alphas_cumprod_B[:, None, None, None]
    return alphas.sqrt(), (1.0 - alphas).sqrt()
