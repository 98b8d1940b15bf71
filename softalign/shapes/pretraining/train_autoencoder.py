"""Training of the embedded autoencoder, and the folding of its latent statistics into its own weights.

Shape legend: N pool images, B batch images, images (B, 3, 32, 32) in [-1, 1], latents (B, 16, 4, 4).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from softalign.shapes.pretraining.latent_code import latent_targets
from softalign.shapes.pretraining.networks import build_autoencoder
from softalign.shapes.pretraining.recipe import PretrainConfig
from softalign.shapes.pretraining.training_state import LoopSettings, ResumableTraining
from softalign.shapes.scenes import Scene, render_batch, sample_dense_scene, sample_scene

_ENCODE_BATCH = 256


def to_pixel_values(images: NDArray[np.uint8]) -> Tensor:
    """Return images (B, H, W, 3) uint8 as floats (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def sample_training_scenes(config: PretrainConfig) -> list[Scene]:
    """Return the autoencoder's pool: one quarter ordinary scenes, then dense ones."""
    rng = np.random.default_rng([config.seed, 1])
    num_ordinary = num_ordinary_scenes(config)
    scenes = [sample_scene(rng) for _ in range(num_ordinary)]
    scenes += [sample_dense_scene(rng) for _ in range(config.autoencoder.num_scenes - num_ordinary)]
    return scenes


def num_ordinary_scenes(config: PretrainConfig) -> int:
    """Return how many of the pool's first images are ordinary scenes."""
    return max(1, config.autoencoder.num_scenes // 4)


def train_autoencoder(
    config: PretrainConfig, digest: str, state_path: Path, max_steps: int | None = None
) -> AutoencoderKL:
    """Train, or continue to train, the autoencoder; the result holds averaged weights, centred and scaled latents."""
    torch.manual_seed(config.seed)
    vae = build_autoencoder(config.autoencoder)
    settings = LoopSettings(
        num_samples=config.autoencoder.num_samples,
        batch_size=config.autoencoder.batch_size,
        learning_rate=config.autoencoder.learning_rate,
        num_warmup_samples=1_000,
        decay_share=0.5,
        ema_decay=0.998,
        checkpoint_every_samples=config.checkpoint_every_samples,
        digest=digest,
    )
    training = ResumableTraining(vae, settings, state_path)
    scenes = sample_training_scenes(config)
    images = render_batch(scenes)
    if training.step < settings.num_steps and max_steps != 0:
        targets = torch.from_numpy(latent_targets(scenes))
        training.run(_autoencoder_loss(vae, images, targets, config), max_steps=max_steps)
    training.load_ema_into(vae)
    vae.requires_grad_(False).eval()
    # Statistics over ordinary scenes, the ones the denoiser will see.
    normalize_latents(vae, images[: min(4096, num_ordinary_scenes(config))])
    return vae


def _autoencoder_loss(
    vae: AutoencoderKL, images: NDArray[np.uint8], targets: Tensor, config: PretrainConfig
) -> Callable[[int], Tensor]:
    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        index = torch.randint(len(images), (config.autoencoder.batch_size,), generator=generator).numpy()
        pixels = to_pixel_values(images[index])
        posterior = vae.encode(pixels).latent_dist
        latents = posterior.sample(generator)
        # Noise on the latent makes the decoder read the code robustly: the denoiser's samples are never exact.
        noise = torch.randn(latents.shape, generator=generator)
        error = vae.decode(latents + config.autoencoder.latent_noise * noise).sample - pixels
        code_loss = nn.functional.mse_loss(posterior.mean, targets[index])
        kl = posterior.kl().mean() / pixels[0].numel()
        # Differences of neighbouring pixels weigh the edges, which is where a square differs from a circle.
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        pixel_loss = error.abs().mean() + 2.0 * error.square().mean() + edges
        loss: Tensor = pixel_loss + config.autoencoder.code_weight * code_loss + config.autoencoder.kl_weight * kl
        return loss

    return loss_at


def encode_images(vae: AutoencoderKL, images: NDArray[np.uint8]) -> Tensor:
    """Return scaled latents (N, 16, 4, 4) of uint8 images: the posterior's mean times the scaling factor."""
    chunks = []
    with torch.no_grad():
        for start in range(0, len(images), _ENCODE_BATCH):
            pixels = to_pixel_values(images[start : start + _ENCODE_BATCH]).to(vae.device)
            chunks.append(vae.encode(pixels).latent_dist.mean.cpu())
    return (torch.cat(chunks) * float(vae.config.scaling_factor)).contiguous()


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> NDArray[np.uint8]:
    """Return images (N, 32, 32, 3) uint8 of scaled latents."""
    chunks = []
    with torch.no_grad():
        for part in torch.split(latents, _ENCODE_BATCH):
            chunks.append(vae.decode(part.to(vae.device) / float(vae.config.scaling_factor)).sample.cpu())
    pixels = (torch.cat(chunks).clamp(-1, 1) + 1) * 127.5
    result: NDArray[np.uint8] = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return result


def normalize_latents(vae: AutoencoderKL, images: NDArray[np.uint8]) -> None:
    """Give the latents of ``images`` zero mean per channel and, with the scaling factor, unit overall deviation.

    The shift is folded into the 1x1 convolutions on both sides of the latent, which leaves reconstructions unchanged.
    Only one scalar scale is used: latents whitened per channel were not learnable in the time given (measured).
    """
    vae.register_to_config(scaling_factor=1.0)
    latents = encode_images(vae, images)
    mean = latents.mean(dim=(0, 2, 3))
    with torch.no_grad():
        vae.quant_conv.bias[: len(mean)] -= mean
        vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.register_to_config(scaling_factor=round(1.0 / float((latents - mean[None, :, None, None]).std()), 6))
