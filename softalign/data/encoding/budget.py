"""How many bytes encode will write, said before the first one; above a budget, or without room, it is refused."""

from __future__ import annotations

from dataclasses import dataclass

from softalign.backbones.sizes import ModelSizes
from softalign.config.runtime import Runtime
from softalign.errors import ConfigError, StorageUnavailableError
from softalign.store.probing import free_bytes, scratch_folder
from softalign.store.store import Store

VALUE_BYTES = 2
"""Encodings are stored in float16."""
DIGEST_BYTES = 2 * 67
"""Each row's digest, quoted: in the index of its shard and in that of the set."""
GB = 10**9


@dataclass(frozen=True, slots=True)
class EncodedBytes:
    """What is to be written to the pools, at most: what all rows of a shard have in common is counted for each.

    The set's own table of captions comes on top, about 150 bytes an image.

    Attributes:
        num_latents: images.
        num_texts: captions and hard negatives.
        sizes: of the base model's encodings.
    """

    num_latents: int
    num_texts: int
    sizes: ModelSizes

    @property
    def latents(self) -> int:
        """Bytes of the images' encodings."""
        return self.num_latents * (VALUE_BYTES * self.sizes.latent + DIGEST_BYTES)

    @property
    def texts(self) -> int:
        """Bytes of the texts' encodings."""
        return self.num_texts * (VALUE_BYTES * self.sizes.text + DIGEST_BYTES)

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return self.latents + self.texts

    @property
    def said(self) -> str:
        """One line for people."""
        if self.total == 0:
            return "encode writes an index only: all encodings are in the store"
        parts = (
            f"{number:,} {what} ({size / 1e6:,.2f} MB)"
            for number, what, size in (
                (self.num_latents, "images", self.latents),
                (self.num_texts, "texts", self.texts),
            )
            if number
        )
        return f"encode writes at most {self.total / 1e6:,.2f} MB: {' and '.join(parts)}"


def over_budget(total_bytes: int, runtime: Runtime) -> bool:
    """Return whether so many bytes are more than ``runtime.encode_budget_gb``."""
    return runtime.encode_budget_gb is not None and total_bytes > runtime.encode_budget_gb * GB


def require_room(predicted: EncodedBytes, runtime: Runtime, store: Store) -> None:
    """Refuse to encode more than the recipe allows, or than a local store's disk has room for.

    Raises:
        ConfigError: it is more than ``runtime.encode_budget_gb``.
        StorageUnavailableError: the disk of a local store has less room.
    """
    counts = f"{predicted.num_latents:,} images, {predicted.num_texts:,} texts"
    needed = f"at most {predicted.total / 1e6:,.2f} MB ({counts})"
    less = "encode.text=online stores no texts; smaller backbone.resolution_px or max_sequence_length make rows smaller"
    if over_budget(predicted.total, runtime):
        raise ConfigError(
            "Encoding would write more than the recipe allows; nothing was written.",
            expected=f"at most {runtime.encode_budget_gb:,g} GB (runtime.encode_budget_gb)",
            found=needed,
            where=store.uri,
            fix=f"raise runtime.encode_budget_gb; {less}",
        )
    free = free_bytes(scratch_folder(store)) if store.is_local else None
    if free is not None and predicted.total > free:
        raise StorageUnavailableError(
            "The store's disk has no room for the encodings; nothing was written.",
            expected=f"room for {needed}",
            found=f"{free / 1e6:,.2f} MB free",
            where=store.uri,
            fix=f"make room, or choose another place (--store); {less}",
        )
