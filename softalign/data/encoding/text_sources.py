"""Where the text states of a batch come from: shards that ``encode`` wrote, or text encoders beside training.

Both give the same values: what is stored was rounded to float16, and so is what is made now.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from softalign.artifacts import EncodedManifest
from softalign.backbones.base import Backbone
from softalign.data.curation.samples import caption_digest
from softalign.data.encoding.encoders import in_full_batches
from softalign.data.encoding.pool import STORAGE_DTYPE, PoolReader
from softalign.errors import CompatibilityError, DataError
from softalign.method.text_states import TextStates
from softalign.store.store import Store

ROWS_PER_CALL = 4
"""Texts per call of the encoders, always, so that a text's values depend neither on the others nor on the cache.

The images of a default batch; encode's 16 would be four times the work.
"""
CACHE_BYTES = 256 << 20
"""What recent texts may take: of Stable Diffusion 1.5 some 2,000, of 3 with 256 positions of T5 some 90."""


class TextSource(Protocol):
    """Gives text states by the texts themselves."""

    def states(self, texts: Sequence[str]) -> TextStates:
        """Return the texts' states, float32, on the CPU."""


class StoredTexts:
    """The states that ``encode`` stored.

    Args:
        path: the encoded set's index of its text shards.
        store: where they lie.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self._reader = PoolReader(path, store)

    def states(self, texts: Sequence[str]) -> TextStates:
        """Return the texts' states, float32, on the CPU."""
        rows = self._reader.rows([caption_digest(text) for text in texts])
        return _stacked(tuple(tensor.to(torch.float32) for tensor in row) for row in rows)


class OnlineTexts:
    """The states that a backbone's text encoders give now; recent ones are kept.

    Args:
        backbone: with its text encoders in float32, on the device that they compute on.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._recent: OrderedDict[str, tuple[Tensor, ...]] = OrderedDict()

    def states(self, texts: Sequence[str]) -> TextStates:
        """Return the texts' states, rounded to float16 as they are stored, float32, on the CPU.

        Raises:
            DataError: a state is not finite in float16.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._recent]
        made = {text: row for text, row in self._encoded(new)}
        rows = [made[text] if text in made else self._recent[text] for text in texts]
        self._keep({text: row for text, row in zip(texts, rows, strict=True)})
        return _stacked(tuple(tensor.to(torch.float32) for tensor in row) for row in rows)

    @torch.no_grad()
    def _encoded(self, texts: list[str]) -> Iterable[tuple[str, tuple[Tensor, ...]]]:
        if not texts:
            return ()
        encoded = in_full_batches(texts, lambda batch: self._backbone.encode_prompts(batch).tensors(), ROWS_PER_CALL)
        rounded = [tensor.to(STORAGE_DTYPE) for tensor in encoded]
        for tensor in rounded:
            is_finite_N = torch.isfinite(tensor).flatten(1).all(1)
            if not bool(is_finite_N.all()):
                raise DataError(
                    "A text's encoding is not finite.",
                    expected=f"values within {STORAGE_DTYPE}",
                    found=f"inf or nan for {texts[int((~is_finite_N).nonzero()[0])]!r}",
                    fix="check the base model's weights",
                )
        return zip(texts, (tuple(row.clone() for row in rows) for rows in zip(*rounded, strict=True)), strict=True)

    def _keep(self, rows: dict[str, tuple[Tensor, ...]]) -> None:
        for text, row in rows.items():
            self._recent[text] = row
            self._recent.move_to_end(text)
        bytes_each = sum(tensor.nbytes for tensor in next(iter(self._recent.values()), ()))
        while len(self._recent) * bytes_each > CACHE_BYTES:
            self._recent.popitem(last=False)


def _stacked(rows: Iterable[tuple[Tensor, ...]]) -> TextStates:
    return TextStates(*(torch.stack(column) for column in zip(*rows, strict=True)))


def texts_of(manifest: EncodedManifest, root: Path, store: Store, online: TextSource | None) -> TextSource:
    """Return where an encoded set's text states come from.

    Args:
        manifest: the encoded set.
        root: its files.
        store: where it lies.
        online: the text encoders, where the set is without text states.

    Raises:
        CompatibilityError: the set is without text states, and no encoders are given.
    """
    if manifest.text == "stored":
        return StoredTexts(root / "texts.json", store)
    if online is None:
        raise CompatibilityError(
            "The dataset was encoded without texts.",
            expected="stored text states, or the text encoders to make them",
            found="encode.text online, and no encoders",
            where=manifest.uri,
            fix="encode it with encode.text=stored",
        )
    return online
