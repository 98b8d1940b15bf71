"""Noise, timesteps and what the denoiser shall predict, in the order of the equations: DDPM, then flow matching.

Draws come from generators keyed by (seed, samples_seen), so a batch has the same noise at any micro-batch size, on any
device and after a restart.

Shape legend: B images, C H W latents.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Real
from torch import Tensor

from softalign.method.soft_tokens import NUM_TRAIN_TIMESTEPS

PredictionType = Literal["epsilon", "v_prediction"]
NoiseSharing = Literal["shared", "per_image"]


@dataclass(frozen=True)
class NoiseDraw:
    """One time, uniform in [0, 1), and one noise per image; ``shared``: both for the whole batch."""

    times_B: Float[Tensor, " B"]
    noise_BCHW: Float[Tensor, "B C H W"]


@dataclass(frozen=True)
class NoisyBatch:
    """What the denoiser sees and what it shall answer."""

    timesteps_B: Real[Tensor, " B"]
    noisy_latents_BCHW: Float[Tensor, "B C H W"]
    target_BCHW: Float[Tensor, "B C H W"]


def keyed_generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator that depends on the key alone."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw_noise(
    shape_BCHW: tuple[int, int, int, int], *, sharing: NoiseSharing, seed: int, samples_seen: int
) -> NoiseDraw:
    """Draw times uniformly from [0, 1) and noise from N(0, 1), on the CPU, in float32.

    Args:
        shape_BCHW: shape of the batch's latents.
        sharing: ``shared``: one draw for the batch (AGSM, algorithm 1); ``per_image``: one for each image.
        seed: the run's seed.
        samples_seen: images seen before this batch.
    """
    num_images, *latent_shape = shape_BCHW
    num_draws = 1 if sharing == "shared" else num_images
    generators = [keyed_generator("noise", seed, samples_seen + index) for index in range(num_draws)]
    times = [torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators]
    noise = [torch.randn(1, *latent_shape, generator=generator) for generator in generators]
    return NoiseDraw(
        times_B=torch.cat(times).expand(num_images).clone(),
        noise_BCHW=torch.cat(noise).expand(num_images, *latent_shape).clone(),
    )


def noisy_latents(
    latents_BCHW: Float[Tensor, "B C H W"], noise_BCHW: Float[Tensor, "B C H W"], alphas_cumprod_B: Float[Tensor, " B"]
) -> Float[Tensor, "B C H W"]:
    """Return ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise`` (DDPM, arXiv 2006.11239, eq. 4)."""
    signal, sigma = _coefficients(alphas_cumprod_B)
    return signal * latents_BCHW + sigma * noise_BCHW


def velocity(
    latents_BCHW: Float[Tensor, "B C H W"], noise_BCHW: Float[Tensor, "B C H W"], alphas_cumprod_B: Float[Tensor, " B"]
) -> Float[Tensor, "B C H W"]:
    """Return ``v = sqrt(a_t) noise - sqrt(1 - a_t) x_0`` (arXiv 2202.00512, appendix D)."""
    signal, sigma = _coefficients(alphas_cumprod_B)
    return signal * noise_BCHW - sigma * latents_BCHW


class ForwardProcess(Protocol):
    """How a family's latents become noisy, and what its denoiser predicts."""

    def diffuse(self, latents_BCHW: Float[Tensor, "B C H W"], draw: NoiseDraw) -> NoisyBatch:
        """Return the noisy latents at the drawn times and the denoiser's target, in the latents' dtype and device."""

    def time_at(self, timestep: float) -> float:
        """Return the time in [0, 1) whose latents have this timestep."""


@dataclass(frozen=True)
class DDPMProcess:
    """DDPM's discrete schedule; timesteps are integers 0..999."""

    alphas_cumprod_T: Float[Tensor, " T"]
    prediction_type: PredictionType

    def time_at(self, timestep: float) -> float:
        """Return the middle of the times that have a timestep."""
        return (int(timestep) + 0.5) / NUM_TRAIN_TIMESTEPS

    def diffuse(self, latents_BCHW: Float[Tensor, "B C H W"], draw: NoiseDraw) -> NoisyBatch:
        """Return ``x_t`` and epsilon or the velocity, at ``t = floor(1000 time)``."""
        timesteps_B = (draw.times_B * NUM_TRAIN_TIMESTEPS).long()
        alphas_B = self.alphas_cumprod_T[timesteps_B].to(latents_BCHW)
        noise_BCHW = draw.noise_BCHW.to(latents_BCHW)
        is_epsilon = self.prediction_type == "epsilon"
        return NoisyBatch(
            timesteps_B=timesteps_B.to(latents_BCHW.device),
            noisy_latents_BCHW=noisy_latents(latents_BCHW, noise_BCHW, alphas_B),
            target_BCHW=noise_BCHW if is_epsilon else velocity(latents_BCHW, noise_BCHW, alphas_B),
        )


@dataclass(frozen=True)
class FlowProcess:
    """Rectified flow (SD3, arXiv 2403.03206): ``x_t = (1 - sigma) x_0 + sigma noise``, target ``noise - x_0``.

    Uniform times become sigmas by the scheduler's own shift, ``sigma = s u / (1 + (s - 1) u)``; the denoiser's
    timestep is ``1000 sigma``, a float in [0, 1000].
    """

    shift: float

    def time_at(self, timestep: float) -> float:
        """Return ``u = sigma / (s - (s - 1) sigma)``, the shift taken back."""
        sigma = timestep / NUM_TRAIN_TIMESTEPS
        return sigma / (self.shift - (self.shift - 1.0) * sigma)

    def diffuse(self, latents_BCHW: Float[Tensor, "B C H W"], draw: NoiseDraw) -> NoisyBatch:
        """Return the interpolated latents and the flow's velocity."""
        sigmas_B = shifted_sigmas(draw.times_B, self.shift)
        sigmas = sigmas_B.to(latents_BCHW)[:, None, None, None]
        noise_BCHW = draw.noise_BCHW.to(latents_BCHW)
        return NoisyBatch(
            timesteps_B=(sigmas_B * NUM_TRAIN_TIMESTEPS).to(latents_BCHW),
            noisy_latents_BCHW=(1.0 - sigmas) * latents_BCHW + sigmas * noise_BCHW,
            target_BCHW=noise_BCHW - latents_BCHW,
        )


def shifted_sigmas(times_B: Float[Tensor, " B"], shift: float) -> Float[Tensor, " B"]:
    """Return noise levels of uniform times under a resolution's shift (arXiv 2403.03206, eq. 23)."""
    return shift * times_B / (1.0 + (shift - 1.0) * times_B)


def _coefficients(alphas_cumprod_B: Tensor) -> tuple[Tensor, Tensor]:
    alphas = alphas_cumprod_B[:, None, None, None]
    return alphas.sqrt(), (1.0 - alphas).sqrt()
