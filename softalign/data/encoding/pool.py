"""Encodings that datasets share: shards of tensors, their rows keyed by the digests of what was encoded.

A pool belongs to one encoder and one way of preparing its input. It holds safetensors shards and, per shard, an index
of its rows; a shard without its index does not exist. A dataset asks for groups of digests: a group that is
already there costs nothing, rows that other groups hold are copied, and only what no shard holds is encoded. Shard
bytes depend on the group and the encoder alone, not on what was there before.

Rows are stored in float16: latents scaled by the VAE's factor have unit deviation and text states stay below a
hundred, so the rounding is 0.05 %, and a sample takes half of float32.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from softalign.artifacts import FileEntry, Frozen, canonical_json, digest_of
from softalign.errors import DataError, IntegrityError
from softalign.store.store import Store

TensorName = Literal["latents", "prompt_embeds", "pooled_prompt_embeds"]
STORAGE_DTYPE = torch.float16

InputT = TypeVar("InputT")
MAX_OPEN_SHARDS = 64
"""Memory-mapped, so an open shard costs a file handle and the pages that are read."""


class PoolTensor(Frozen):
    """One tensor of a shard: its name and the shape of a row."""

    name: TensorName
    row_shape: tuple[int, ...]


class PoolShard(Frozen):
    """A shard's rows by digest, in order, its tensors, and its file."""

    digests: tuple[str, ...]
    tensors: tuple[PoolTensor, ...]
    file: FileEntry


@dataclass(slots=True)
class PoolCounts:
    """How many rows a pool had to encode, could copy from other shards, and already held as asked for."""

    encoded: int = 0
    copied: int = 0
    present: int = 0


class EncodedPool:
    """The shards of one encoder in a store.

    Args:
        store: where they lie.
        tensor_names: names of the tensors in the shards.
        spec: everything that the encodings depend on, apart from what is encoded.
        work_path: a local folder for unfinished shards.
    """

    def __init__(
        self, store: Store, tensor_names: tuple[TensorName, ...], spec: list[str | int], work_path: Path
    ) -> None:
        self._store, self._tensor_names, self._work_path = store, tensor_names, work_path
        self._folder = f"{tensor_names[0]}-{digest_of([*tensor_names, str(STORAGE_DTYPE), *spec])[:16]}"
        sizes = store.shared_sizes(self._folder)
        shards = [PoolShard.model_validate_json(index) for index in store.read_shard_indexes(self._folder)]
        shards = [shard for shard in shards if sizes.get(Path(shard.file.path).name) == shard.file.size_bytes]
        self._shards = {_group_digest(shard.digests): shard for shard in shards}
        self._rows = {digest: (shard, row) for shard in shards for row, digest in enumerate(shard.digests)}
        self.counts = PoolCounts()

    def shard_of(
        self, group: Mapping[str, InputT], encode_rows: Callable[[list[InputT]], tuple[Tensor, ...]]
    ) -> PoolShard:
        """Return the shard of a group, made if it is not there.

        Args:
            group: what is to be encoded, by digest, in the shard's order.
            encode_rows: returns the tensors, one float32 row for each input; called with those that no shard holds.

        Raises:
            DataError: an encoding is not finite in float16.
            IntegrityError: a shard that rows are to be copied from is damaged.
        """
        found = self._shards.get(_group_digest(group))
        if found is not None:
            self.counts.present += len(group)
            return found
        missing = [digest for digest in group if digest not in self._rows]
        self.counts.encoded += len(missing)
        self.counts.copied += len(group) - len(missing)
        encoded: dict[str, tuple[Tensor, ...]] = {}
        if missing:
            tensors = [rows.to("cpu", STORAGE_DTYPE) for rows in encode_rows([group[digest] for digest in missing])]
            for name, rows_NX in zip(self._tensor_names, tensors, strict=True):
                _check_finite(rows_NX, missing, name)
            encoded = dict(zip(missing, zip(*tensors, strict=True), strict=True))
        rows = [encoded[digest] if digest in encoded else self._known_row(digest) for digest in group]
        return self._add(tuple(group), [torch.stack(column) for column in zip(*rows, strict=True)])

    def _known_row(self, digest: str) -> tuple[Tensor, ...]:
        shard, row = self._rows[digest]
        path = self._store.fetch_shared(shard.file)
        return tuple(read_row(path, name, row) for name in self._tensor_names)

    def _add(self, group: tuple[str, ...], tensors: list[Tensor]) -> PoolShard:
        path = self._work_path / f"{_group_digest(group)[:16]}.safetensors"
        named = dict(zip(self._tensor_names, tensors, strict=True))
        save_file({name: rows_NX.contiguous() for name, rows_NX in named.items()}, path)
        entry = self._store.add_shared(self._folder, path)
        described = tuple(PoolTensor(name=name, row_shape=tuple(rows.shape[1:])) for name, rows in named.items())
        index = canonical_json(PoolShard(digests=group, tensors=described, file=entry).model_dump(mode="json"))
        kept = self._store.create_shard_index(f"{self._folder}/{_group_digest(group)}.json", index)
        shard = PoolShard.model_validate_json(kept)
        self._shards[_group_digest(group)] = shard
        self._rows.update({digest: (shard, row) for row, digest in enumerate(shard.digests)})
        return shard


def _check_finite(rows_NX: Tensor, digests: list[str], tensor_name: TensorName) -> None:
    is_finite = torch.isfinite(rows_NX).flatten(1).all(1)
    if not bool(is_finite.all()):
        raise DataError(
            "An encoding is not finite.",
            expected=f"values within {STORAGE_DTYPE}",
            found=f"{int((~is_finite).sum())} of {len(digests)} rows with inf or nan",
            where=f"{tensor_name} of {digests[int((~is_finite).nonzero()[0])]}",
            fix="check the base model's weights",
        )


def read_row(path: Path, tensor_name: TensorName, row: int) -> Tensor:
    """Return one row of a shard, reading little more than its bytes.

    Raises:
        IntegrityError: the file is not such a shard.
    """
    try:
        with safe_open(path, framework="pt") as shard:
            tensor: Tensor = shard.get_slice(tensor_name)[row]
            return tensor
    except (SafetensorError, OSError, IndexError) as error:
        raise IntegrityError(
            "An encoded shard cannot be read.", expected=f"{tensor_name}, row {row}", found=str(error), where=str(path)
        ) from error


def _group_digest(digests: Iterable[str]) -> str:
    return digest_of(list(digests))


class PoolReader:
    """Rows of a pool's tensors by digest, from memory-mapped shards that are verified when first opened."""

    def __init__(self, path: Path, store: Store) -> None:
        self._store = store
        self._shards = TypeAdapter(list[PoolShard]).validate_json(path.read_bytes())
        self._places = {
            digest: (index, row) for index, shard in enumerate(self._shards) for row, digest in enumerate(shard.digests)
        }
        self._paths: dict[int, Path] = {}
        self._open: OrderedDict[int, Any] = OrderedDict()

    def row(self, digest: str) -> tuple[Tensor, ...]:
        """Return one row of each tensor as float32."""
        index, row = self._places[digest]
        shard = self._shard(index)
        return tuple(shard.get_slice(entry.name)[row].to(torch.float32) for entry in self._shards[index].tensors)

    def _shard(self, index: int) -> Any:
        if index not in self._open:
            if index not in self._paths:
                self._paths[index] = self._store.fetch_shared(self._shards[index].file)
            self._open[index] = safe_open(self._paths[index], framework="pt")
            if len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(index)
        return self._open[index]
