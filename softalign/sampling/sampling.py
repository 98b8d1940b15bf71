"""Sampling: batched, with classifier-free guidance, and one random generator per image.

An image's noise is a function of (seed, prompt index, image index) alone, so arms that differ in the adapter only are
paired, and batch size, order and restarts change nothing.

Shape legend: B images of one denoiser call, L text tokens, D text width, C H W of the latents.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from softalign.backbones.base import Backbone
from softalign.backbones.vae import decode_latents
from softalign.errors import CompatibilityError, ConfigError, PreemptedError
from softalign.geneval.layout import image_filename
from softalign.geneval.prompts import GenevalPrompt
from softalign.method.text_states import TextStates
from softalign.processes.reporter import Reporter
from softalign.processes.stopping import StopRequest
from softalign.store.files import replacing

_PNG_COMPRESS_LEVEL = 6


@dataclass(frozen=True)
class ImageRequest:
    """One image to make: its prompt, the two indices its noise is drawn from, and where it goes."""

    prompt: str
    prompt_index: int
    image_index: int
    path: Path


def requests_of(prompts: Sequence[GenevalPrompt], images_per_prompt: int, root: Path) -> list[ImageRequest]:
    """Return the images of a suite in GenEval's layout below a folder, prompt by prompt."""
    return [
        ImageRequest(prompt.prompt, prompt_index, image_index, root / image_filename(prompt_index, image_index))
        for prompt_index, prompt in enumerate(prompts)
        for image_index in range(images_per_prompt)
    ]


@dataclass(frozen=True)
class SamplingSettings:
    """How images are sampled; ``guidance_scale`` 1 is without guidance, sizes are in pixels."""

    num_inference_steps: int
    guidance_scale: float
    resolution_px: int
    seed: int = 0


def trained_side_px(backbone: Backbone) -> int:
    """Return the side of the images that a loaded model was made for, by its own configuration."""
    return side_px(cast(Any, backbone.denoiser).config.sample_size, backbone.pipeline.vae_scale_factor)


def side_px(sample_size: int | Sequence[int] | None, vae_scale_factor: int) -> int:
    """Return the side of the images of a model whose configuration says this ``sample_size``.

    Args:
        sample_size: the latents' side, or the same twice.
        vae_scale_factor: how many pixels a latent's side has.

    Raises:
        CompatibilityError: it says no side, or two.
    """
    sides = {sample_size} if isinstance(sample_size, int | None) else set(sample_size)
    side = sides.pop() if len(sides) == 1 else None
    if side is None:
        raise CompatibilityError(
            "The base model does not say how large its images are.",
            expected="sample_size in its denoiser's config.json: the side of its latents",
            found=f"sample_size: {sample_size}",
            fix="set sample_size there; `geneval generate` takes --resolution-px, too",
        )
    return side * vae_scale_factor


def image_seed(seed: int, prompt_index: int, image_index: int) -> int:
    """Return the generator seed of one image: 63 bits of a sha256, so neighbours share nothing."""
    text = f"softalign image noise {seed} {prompt_index} {image_index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def initial_noise(
    settings: SamplingSettings, request: ImageRequest, shape_CHW: tuple[int, int, int]
) -> Float32[Tensor, "C H W"]:
    """Return one image's initial noise (C, H, W), float32, drawn on the CPU on every device."""
    generator = torch.Generator("cpu")
    generator.manual_seed(image_seed(settings.seed, request.prompt_index, request.image_index))
    return torch.randn(shape_CHW, generator=generator, dtype=torch.float32)


Batch = tuple[ImageRequest, ...]
Draw = Callable[[Iterable[Batch]], Iterator[tuple[bytes, ...]]]
"""Yields each batch's PNG files, in order."""


def batch_drawer(backbone: Backbone, settings: SamplingSettings) -> Callable[[Batch], tuple[bytes, ...]]:
    """Return the function that draws a batch as PNG files.

    Args:
        backbone: with or without an adapter attached to its pipeline; its sampler becomes that of the papers.
        settings: sampling settings.
    """
    backbone.use_papers_sampler()
    return lambda batch: tuple(png_bytes(image) for image in generate_batch(backbone, batch, settings))


def generate_missing(
    draw: Draw,
    requests: Sequence[ImageRequest],
    side_px: int,
    batch_size: int,
    stop: StopRequest,
    round_size: int | None = None,
) -> int:
    """Make the PNG files of all requests that are not there yet, and return how many were made.

    Batches are cut from the whole list, finished images included, so an interrupted run and its continuation call the
    denoiser with the same batches as an undisturbed one. Files appear whole or not at all.

    Args:
        draw: ``batch_drawer`` here, or an engine elsewhere.
        requests: in a fixed order.
        side_px: of the images.
        batch_size: images per denoiser call. It moves last bits: at most one level of a few values of an image.
        stop: looked at after each batch.
        round_size: requests are rounds of so many, and no batch has images of two; None: they are one round.

    Raises:
        PreemptedError: a stop was asked for; finished images are kept.
    """
    batches = _batches(requests, batch_size, round_size)
    todo = [batch for batch in batches if not all(is_finished(request.path, side_px) for request in batch)]
    drawn = draw(todo)
    num_todo, num_made = sum(map(len, todo)), 0
    num_there = len(requests) - num_todo
    with Reporter("evaluate", "images", len(requests), num_reused=num_there) as images:
        images.begin()
        for batch in todo:
            if stop.is_set:
                kept = f"Generation was stopped after {num_made} of {num_todo} images; they are kept."
                raise PreemptedError(kept, fix="run again to continue there")
            for request, png in zip(batch, next(drawn), strict=True):
                _write_whole(request.path, png)
            num_made += len(batch)
            images.reach(num_there + num_made)
    return num_made


def _batches(requests: Sequence[ImageRequest], batch_size: int, round_size: int | None) -> list[Batch]:
    return [
        tuple(batch) for part in _parts(requests, round_size or len(requests)) for batch in _parts(part, batch_size)
    ]


def _parts(requests: Sequence[ImageRequest], size: int) -> Iterator[Sequence[ImageRequest]]:
    for start in range(0, len(requests), max(size, 1)):
        yield requests[start : start + size]


@torch.no_grad()
def generate_batch(
    backbone: Backbone, requests: Sequence[ImageRequest], settings: SamplingSettings
) -> Iterator[NDArray[np.uint8]]:
    """Yield the images (H, W, 3) of one batch.

    Prompts are encoded once each; everything after is the pipeline's own call, but for the VAE's decoding in float32.

    Raises:
        ConfigError: there are more steps than the scheduler has timesteps.
    """
    _require_timesteps(backbone.pipeline.scheduler, settings.num_inference_steps)
    pipeline, denoiser = backbone.pipeline, cast(Any, backbone.denoiser)
    side = settings.resolution_px // pipeline.vae_scale_factor
    shape_CHW = (denoiser.config.in_channels, side, side)
    noise_BCHW = torch.stack([initial_noise(settings, request, shape_CHW) for request in requests])
    texts = list(dict.fromkeys(request.prompt for request in requests))
    rows = [texts.index(request.prompt) for request in requests]
    if settings.guidance_scale > 1.0:
        own, unconditional = backbone.encode_for_guidance(texts)
        states = {**as_arguments(own.rows(rows)), **as_arguments(unconditional.rows(rows), "negative_")}
    else:
        states = as_arguments(backbone.encode_prompts(texts).rows(rows))
    latents_BCHW = pipeline(
        **states,
        latents=noise_BCHW.to(denoiser.device, denoiser.dtype),
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        height=settings.resolution_px,
        width=settings.resolution_px,
        output_type="latent",
    ).images
    yield from decode_latents(backbone, latents_BCHW)


def _require_timesteps(scheduler: Any, num_inference_steps: int) -> None:
    num_timesteps = scheduler.config.num_train_timesteps
    if num_inference_steps > num_timesteps:
        raise ConfigError(
            "There are more steps than timesteps.",
            expected=f"at most {num_timesteps}",
            found=str(num_inference_steps),
            where="num_inference_steps",
        )


def as_arguments(text: TextStates, prefix: str = "") -> dict[str, Float[Tensor, "N ..."]]:
    """Return text states as the pipelines' arguments."""
    states = {f"{prefix}prompt_embeds": text.prompt_embeds_NLD}
    return states if text.pooled_NP is None else {**states, f"{prefix}pooled_prompt_embeds": text.pooled_NP}


def png_bytes(image_HW3: NDArray[np.uint8], info: PngInfo | None = None) -> bytes:
    """Return an image as PNG; the same pixels and text chunks are the same bytes.

    Args:
        image_HW3: the pixels.
        info: text chunks; none without.
    """
    buffer = io.BytesIO()
    Image.fromarray(image_HW3).save(buffer, format="PNG", compress_level=_PNG_COMPRESS_LEVEL, pnginfo=info)
    return buffer.getvalue()


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; without fsync, as ``is_finished`` finds what a power cut left."""
    with replacing(path, is_synced=False) as made:
        made.write_bytes(data)


def is_finished(path: Path, side_px: int) -> bool:
    """Return whether a whole, readable PNG of this size lies there."""
    if not path.is_file():
        return False
    try:
        with Image.open(path) as image:
            image.load()
            return image.format == "PNG" and image.size == (side_px, side_px)
    except (OSError, SyntaxError, UnidentifiedImageError):
        return False
