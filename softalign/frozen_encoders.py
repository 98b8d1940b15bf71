"""The frozen VAE and text encoder of a pipeline, called in batches of one size.

Shape legend: N rows, B = BATCH_SIZE, C H W latent, L text tokens, D text width, R resolution in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from softalign.artifacts import digest_of
from softalign.backbones.base import component_digest
from softalign.preprocessing import PREPROCESSING

BATCH_SIZE = 16
"""Rows per encoder call, always: the last batch is filled up, so that a row's bytes do not depend on its company."""
RowT = TypeVar("RowT")


class FrozenEncoders:
    """What a pipeline encodes images and captions with, and what identifies it.

    Args:
        pipeline: from ``load_pipeline``, in float32.
        resolution_px: side of the images given to the VAE.
    """

    def __init__(self, pipeline: Any, resolution_px: int) -> None:
        self._pipeline = pipeline
        self.backbone_digest = component_digest(pipeline.unet)
        self.vae_digest = component_digest(pipeline.vae)
        self.text_encoder_digest = component_digest(pipeline.text_encoder)
        self.latents_spec: list[str | int] = [self.vae_digest, resolution_px, PREPROCESSING]
        self.texts_spec: list[str | int] = [self.text_encoder_digest, _tokenizer_digest(pipeline.tokenizer)]

    @torch.no_grad()
    def latents_of(self, images: Iterable[Tensor]) -> Tensor:
        """Return the latents (N, C, H, W) of images (3, R, R) in [-1, 1].

        They are the posterior's mean, shifted and scaled to unit deviation as the VAE's configuration says.
        """
        vae = self._pipeline.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0

        def encode(batch: list[Tensor]) -> Tensor:
            images_BCRR = torch.stack(batch).to(vae.device, vae.dtype)
            mean_BCHW = vae.encode(images_BCRR).latent_dist.mode()
            latents_BCHW: Tensor = (mean_BCHW - shift) * vae.config.scaling_factor
            return latents_BCHW

        return _in_full_batches(images, encode)

    @torch.no_grad()
    def prompt_embeds_of(self, captions: Iterable[str]) -> Tensor:
        """Return the text encodings (N, L, D) of captions, cut at the text encoder's length, as generation has them."""

        def encode(batch: list[str]) -> Tensor:
            device = self._pipeline.text_encoder.device
            embeds_BLD: Tensor = self._pipeline.encode_prompt(batch, device, 1, do_classifier_free_guidance=False)[0]
            return embeds_BLD

        return _in_full_batches(captions, encode)


def _in_full_batches(rows: Iterable[RowT], encode: Callable[[list[RowT]], Tensor]) -> Tensor:
    encoded = []
    for batch in _batches(rows):
        filled = batch + [batch[-1]] * (BATCH_SIZE - len(batch))
        encoded.append(encode(filled)[: len(batch)].to("cpu", torch.float32))
    return torch.cat(encoded)


def _batches(rows: Iterable[RowT]) -> Iterator[list[RowT]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_SIZE)):
        yield batch


def _tokenizer_digest(tokenizer: Any) -> str:
    """Return the digest of a tokenizer's rules; how it was last asked to pad and cut is not among them."""
    if not getattr(tokenizer, "is_fast", False):
        return digest_of([tokenizer.get_vocab(), tokenizer.model_max_length])
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules.update(padding=None, truncation=None)
    return digest_of([rules, tokenizer.model_max_length])
