"""What pairs of a grid share is computed once within a step: outputs of frozen submodules, by image or by prompt.

Ahead of the first soft token a denoiser's states depend on a pair's image alone (or on image and prompt, where pooled
text enters the time embedding), and keys and values of plain text rows on its prompt alone: the same for live and
averaged tokens and for every micro-batch. No forward is copied: ``forward`` of chosen modules is shadowed on the
instance, runs without gradient for the rows not seen yet, and hands out the kept rows.

A worked example: two images and three prompts are six pairs. What depends on the image is computed for two rows, and
what a prompt's plain text becomes for three; of the soft tokens, here one for each pair ahead of one row of text, all
six are computed. A later micro-batch finds its images and prompts kept.

>>> class Doubled(nn.Module):
...     def forward(self, rows):
...         print("computes", rows.flatten().tolist())
...         return 2 * rows
>>> of_image, of_text = Doubled(), Doubled()
>>> cache = RowCache(SharedParts(per_image=(of_image,), text_projections=(of_text,), insert_at=0))
>>> images, prompts = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2])
>>> latents, text = torch.tensor([[10], [20]]), torch.tensor([[1], [2], [3]])
>>> tokens = torch.tensor([[-1], [-2], [-3], [-4], [-5], [-6]])
>>> def call(pairs):
...     with cache.rows(images[pairs], prompts[pairs], text_length=1):
...         of_pairs = of_image(latents[images[pairs]])
...         of_texts = of_text(torch.stack([tokens[pairs], text[prompts[pairs]]], dim=1))
...     print("gives", of_pairs.flatten().tolist(), of_texts.flatten(1).tolist())
>>> with cache.one_batch():
...     call(slice(0, 6))
...     call(slice(4, 6))
computes [10, 20]
computes [1, 2, 3]
computes [-1, -2, -3, -4, -5, -6]
gives [20, 20, 20, 40, 40, 40] [[-2, 2], [-4, 4], [-6, 6], [-8, 2], [-10, 4], [-12, 6]]
computes [-5, -6]
gives [40, 40] [[-10, 4], [-12, 6]]

Shape legend: N rows, L text rows with their tokens, S tokens among them, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn


@dataclass(frozen=True)
class RowKeys:
    """Which image and which prompt each row of a denoiser call belongs to, and how long the plain text is."""

    images: tuple[int, ...]
    prompts: tuple[int, ...]
    text_length: int

    def at(self, places: Sequence[int]) -> RowKeys:
        """Return the keys of these rows."""
        images, prompts = (tuple(of[place] for place in places) for of in (self.images, self.prompts))
        return RowKeys(images, prompts, self.text_length)


@dataclass(frozen=True)
class SharedParts:
    """The modules whose outputs rows share.

    Attributes:
        per_image: their output depends on the row's image (noisy latents and timestep) alone.
        per_pair: on image and prompt, not on the soft tokens.
        text_projections: linear maps of the text states, in which ``insert_at`` says where tokens may stand.
        insert_at: text rows ahead of the tokens.
    """

    per_image: tuple[nn.Module, ...] = ()
    per_pair: tuple[nn.Module, ...] = ()
    text_projections: tuple[nn.Module, ...] = ()
    insert_at: int = 0


class RowCache:
    """The kept rows of one batch; empty, and the modules untouched, outside of ``one_batch``.

    Args:
        parts: the modules; frozen, in eval mode, and row by row functions of their arguments.
    """

    def __init__(self, parts: SharedParts = SharedParts()) -> None:
        self._parts = parts
        self._is_open = False
        self._keys: RowKeys | None = None

    @contextmanager
    def one_batch(self) -> Iterator[None]:
        """Keep rows while inside: images, timesteps and prompts must not change their meaning until the end."""
        parts = self._parts
        shadows = [(module, self._kept(module.forward, _image_keys)) for module in parts.per_image]
        shadows += [(module, self._kept(module.forward, _pair_keys)) for module in parts.per_pair]
        shadows += [(module, self._projected(module.forward)) for module in parts.text_projections]
        own = [(module, module.__dict__.get("forward")) for module, _ in shadows]
        for module, forward in shadows:
            hidden: Any = torch.compiler.disable  # the bookkeeping is not for torch.compile
            module.__dict__["forward"] = hidden(forward)
        self._is_open = bool(shadows)
        try:
            yield
        finally:
            self._is_open = False
            for module, before in own:
                del module.__dict__["forward"]
                if before is not None:  # the instance had a shadow before ours
                    module.__dict__["forward"] = before

    @contextmanager
    def rows(self, images_N: Int[Tensor, " N"], prompts_N: Int[Tensor, " N"], text_length: int) -> Iterator[None]:
        """Say which image and prompt the rows of the denoiser calls inside have; elsewhere nothing is kept.

        Args:
            images_N: place of each row's image in the batch.
            prompts_N: place of its prompt.
            text_length: rows of the text states without tokens.
        """
        if not self._is_open:
            yield
            return
        images, prompts = torch.stack([images_N, prompts_N]).tolist()
        with self._under(RowKeys(tuple(images), tuple(prompts), text_length)):
            yield

    @contextmanager
    def _under(self, keys: RowKeys) -> Iterator[None]:
        before, self._keys = self._keys, keys
        try:
            yield
        finally:
            self._keys = before

    def _kept(
        self, forward: Callable[..., Any], keys_of: Callable[[RowKeys], tuple[Hashable, ...]]
    ) -> Callable[..., Any]:
        kept: dict[Hashable, Any] = {}

        def shadow(*args: Any, **kwargs: Any) -> Any:
            if self._keys is None:
                return forward(*args, **kwargs)
            keys = keys_of(self._keys)
            fresh = [place for place, key in enumerate(keys) if key not in kept and keys.index(key) == place]
            if fresh:
                with torch.no_grad(), self._under(self._keys.at(fresh)):
                    output = forward(*_take(args, fresh), **_take(kwargs, fresh))
                kept.update((keys[place], _take(output, [row])) for row, place in enumerate(fresh))
            return _joined([kept[key] for key in keys])

        return shadow

    def _projected(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        plain = self._kept(forward, _prompt_keys)
        start = self._parts.insert_at

        def shadow(text_NLD: Tensor) -> Tensor:
            num_tokens = 0 if self._keys is None else text_NLD.shape[1] - self._keys.text_length
            if num_tokens == 0:
                projected: Tensor = plain(text_NLD)
                return projected
            before, tokens, after = torch.split(
                text_NLD, [start, num_tokens, text_NLD.shape[1] - start - num_tokens], dim=1
            )
            kept = plain(torch.cat([before, after], dim=1))
            return torch.cat([kept[:, :start], forward(tokens), kept[:, start:]], dim=1)

        return shadow


def _image_keys(keys: RowKeys) -> tuple[Hashable, ...]:
    return keys.images


def _prompt_keys(keys: RowKeys) -> tuple[Hashable, ...]:
    return keys.prompts


def _pair_keys(keys: RowKeys) -> tuple[Hashable, ...]:
    return tuple(zip(keys.images, keys.prompts, strict=True))


def _take(value: Any, rows: Sequence[int]) -> Any:
    """Return the rows of every tensor in a value; no index tensor, which would make a CUDA device wait."""
    if isinstance(value, Tensor):
        if list(rows) == list(range(value.shape[0])):
            return value
        return torch.cat([value[row : row + 1] for row in rows])
    if isinstance(value, dict):
        return {name: _take(part, rows) for name, part in value.items()}
    return tuple(_take(part, rows) for part in value) if isinstance(value, tuple) else value


def _joined(rows: list[Any]) -> Any:
    first = rows[0]
    if isinstance(first, tuple):
        return tuple(_joined(list(parts)) for parts in zip(*rows, strict=True))
    return torch.cat(rows) if isinstance(first, Tensor) else first
