"""The frozen VAE and text encoders of a backbone, called in batches of one size.

Shape legend: N rows, C H W latent, L text tokens, D text width, R resolution in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from softalign.artifacts import digest_of
from softalign.backbones.base import Backbone
from softalign.backbones.identity import component_digest, text_encoder_digest
from softalign.backbones.vae import encode_images, rows_per_call
from softalign.data.encoding.common_parts import LAYOUT
from softalign.data.encoding.pool import TensorName
from softalign.data.encoding.preprocessing import PREPROCESSING
from softalign.method.text_states import TextStates

BATCH_SIZE = 16
"""Rows per encoder call, always: the last batch is filled up, so that a row's bytes do not depend on the other rows.

Images above 512 px go in smaller batches, of one size at each resolution.
"""
RowT = TypeVar("RowT")


class FrozenEncoders:
    """What a backbone encodes images and captions with, and what identifies it.

    Args:
        backbone: from ``load_backbone``, in float32, on the CPU.
        resolution_px: side of the images given to the VAE.
    """

    def __init__(self, backbone: Backbone, resolution_px: int) -> None:
        self._backbone, self.resolution_px = backbone, resolution_px
        self.backbone_digest = component_digest(backbone.denoiser)
        self.vae_digest = component_digest(backbone.pipeline.vae)
        self.text_encoder_digest = text_encoder_digest(backbone)
        self.latents_spec: list[str | int] = [self.vae_digest, resolution_px, PREPROCESSING]
        tokenizer_digests = map(_tokenizer_digest, backbone.tokenizers)
        made_by: list[str | int] = [self.text_encoder_digest, *tokenizer_digests, *backbone.text_options]
        self.texts_spec: list[str | int] = [*made_by, LAYOUT]

    def to(self, device: torch.device) -> Self:
        """Move the encoders, and not the denoiser, which encoding does not call."""
        for module in (self._backbone.pipeline.vae, *self._backbone.text_encoders):
            module.to(device)
        return self

    @property
    def text_tensor_names(self) -> tuple[TensorName, ...]:
        """The tensors that ``text_states_of`` gives."""
        return ("prompt_embeds", "pooled_prompt_embeds") if self._backbone.has_pooled_text else ("prompt_embeds",)

    @torch.no_grad()
    def latents_of(self, images: Iterable[Tensor]) -> Tensor:
        """Return the latents (N, C, H, W) of images (3, R, R) in [-1, 1]; see ``encode_images``."""
        batch_size = min(BATCH_SIZE, rows_per_call(self.resolution_px))
        return in_full_batches(images, lambda batch: (encode_images(self._backbone, torch.stack(batch)),), batch_size)[
            0
        ]

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shape of one text's row in each tensor."""
        return tuple(tuple(tensor.shape[1:]) for tensor in self.text_states_of([""]).tensors())

    @torch.no_grad()
    def text_states_of(self, captions: Iterable[str]) -> TextStates:
        """Return the text encodings of captions, cut at the text encoders' length, as generation has them."""
        return TextStates(
            *in_full_batches(captions, lambda batch: self._backbone.encode_prompts(batch).tensors(), BATCH_SIZE)
        )


def in_full_batches(
    rows: Iterable[RowT], encode: Callable[[list[RowT]], tuple[Tensor, ...]], batch_size: int
) -> tuple[Tensor, ...]:
    """Return the rows' encodings, float32, on the CPU, made in batches of one size: the last one is filled up."""
    encoded = []
    for batch in _batches(rows, batch_size):
        filled = batch + [batch[-1]] * (batch_size - len(batch))
        encoded.append(tuple(tensor[: len(batch)].to("cpu", torch.float32) for tensor in encode(filled)))
    return tuple(torch.cat(column) for column in zip(*encoded, strict=True))


def _batches(rows: Iterable[RowT], batch_size: int) -> Iterator[list[RowT]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, batch_size)):
        yield batch


def _tokenizer_digest(tokenizer: Any) -> str:
    """Return the digest of a tokenizer's rules, without the padding and truncation of its last call."""
    if not getattr(tokenizer, "is_fast", False):
        return digest_of([tokenizer.get_vocab(), tokenizer.model_max_length])
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules.update(padding=None, truncation=None)
    return digest_of([rules, tokenizer.model_max_length])
