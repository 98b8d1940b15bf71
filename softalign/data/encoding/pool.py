"""Encodings that datasets share: shards of tensors, their rows keyed by the digests of what was encoded.

A pool belongs to one encoder and one way of preparing its input. It holds safetensors shards and, per shard, an index
of its rows; a shard without its index does not exist. A dataset asks for groups of digests: a group that is
already there costs nothing, rows that other groups hold are copied, and only what no shard holds is encoded. Shard
bytes depend on the group and the encoder alone, not on what was there before.

What all texts of a shard have in common is stored once (``common_parts``). Rows are stored in float16: latents scaled
by the VAE's factor have unit deviation and text states stay below a hundred, so the rounding is 0.05 %, and a sample
takes half of float32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import Tensor

from softalign.artifacts import FileEntry, Frozen, canonical_json, digest_of
from softalign.data.encoding import common_parts
from softalign.data.encoding.shared_rows import SharedRows, WantedRow
from softalign.errors import DataError
from softalign.store.store import Store

TensorName = Literal["latents", "prompt_embeds", "pooled_prompt_embeds"]
STORAGE_DTYPE = torch.float16

InputT = TypeVar("InputT")


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


@dataclass(frozen=True, slots=True)
class ShardRequest(Generic[InputT]):
    """A group that no shard holds yet, with all that whoever makes its shard needs to know of the pool.

    Attributes:
        folder: the pool's, below ``{store}/encoded``.
        tensor_names: names of the tensors.
        inputs: what is to be encoded, by digest, in the shard's order.
        copied: the file and the row of those that other shards hold.
    """

    folder: str
    tensor_names: tuple[TensorName, ...]
    inputs: dict[str, InputT]
    copied: dict[str, tuple[FileEntry, int]]

    @property
    def missing(self) -> dict[str, InputT]:
        """What has to be encoded."""
        return {digest: value for digest, value in self.inputs.items() if digest not in self.copied}


class EncodedPool:
    """The shards of one encoder in a store: which groups are there, and where rows of others can be copied from.

    Args:
        store: where they lie.
        tensor_names: names of the tensors in the shards.
        spec: everything that the encodings depend on, apart from what is encoded.
    """

    def __init__(self, store: Store, tensor_names: tuple[TensorName, ...], spec: list[str | int]) -> None:
        self._tensor_names, self._folder = tensor_names, pool_folder(tensor_names, spec)
        sizes = store.shared_sizes(self._folder)
        shards = [PoolShard.model_validate_json(index) for index in store.read_shard_indexes(self._folder)]
        shards = [shard for shard in shards if sizes.get(Path(shard.file.path).name) == shard.file.size_bytes]
        self._shards = {_group_digest(shard.digests): shard for shard in shards}
        self._rows = {digest: (shard.file, row) for shard in shards for row, digest in enumerate(shard.digests)}
        self.counts = PoolCounts()

    def find(self, group: Mapping[str, InputT]) -> PoolShard | None:
        """Return the shard of a group, if it is there."""
        found = self._shards.get(_group_digest(group))
        if found is not None:
            self.counts.present += len(group)
        return found

    def lacks(self, digest: str) -> bool:
        """Return whether no shard holds a row."""
        return digest not in self._rows

    def request(self, group: dict[str, InputT]) -> ShardRequest[InputT]:
        """Return what is to be done for a group that is not there."""
        copied = {digest: self._rows[digest] for digest in group if digest in self._rows}
        self.counts.encoded += len(group) - len(copied)
        self.counts.copied += len(copied)
        return ShardRequest(self._folder, self._tensor_names, group, copied)


def pool_folder(tensor_names: tuple[TensorName, ...], spec: list[str | int]) -> str:
    """Return the folder of a pool below ``{store}/encoded``."""
    return f"{tensor_names[0]}-{digest_of([*tensor_names, str(STORAGE_DTYPE), *spec])[:16]}"


def make_shard(
    request: ShardRequest[InputT],
    encode_rows: Callable[[list[InputT]], tuple[Tensor, ...]],
    store: Store,
    work_path: Path,
) -> PoolShard:
    """Make the shard of a group and return it; making it again changes nothing.

    Args:
        request: from ``EncodedPool.request``.
        encode_rows: returns the tensors, one float32 row for each input; called with those that no shard holds.
        store: where the pool lies.
        work_path: a local folder for the unfinished shard.

    Raises:
        DataError: an encoding is not finite in float16.
        IntegrityError: a shard that rows are to be copied from is damaged.
    """
    missing, names = request.missing, request.tensor_names
    encoded: dict[str, tuple[Tensor, ...]] = {}
    if missing:
        tensors = [rows.to("cpu", STORAGE_DTYPE) for rows in encode_rows(list(missing.values()))]
        for name, rows_NX in zip(names, tensors, strict=True):
            _check_finite(rows_NX, list(missing), name)
        encoded = dict(zip(missing, zip(*tensors, strict=True), strict=True))
    wanted = [WantedRow(file, row, names) for file, row in request.copied.values()]
    encoded |= zip(request.copied, SharedRows(store).read(wanted), strict=True)
    rows = (encoded[digest] for digest in request.inputs)
    return _add(request, dict(zip(names, zip(*rows, strict=True), strict=True)), store, work_path)


def _add(
    request: ShardRequest[InputT], rows: dict[TensorName, tuple[Tensor, ...]], store: Store, work_path: Path
) -> PoolShard:
    digests = tuple(request.inputs)
    boxes = {name: common_parts.find_boxes(rows[name]) for name in rows if name == "prompt_embeds"}
    tensors: dict[str, Tensor] = {name: torch.stack(rows[name]) for name in rows if name not in boxes}
    for name, found in boxes.items():
        tensors |= common_parts.to_tensors(name, rows[name], found)
    with tempfile.TemporaryDirectory(dir=work_path) as folder:  # of its own: a lost call may still be writing
        path = Path(folder) / "shard.safetensors"
        save_file(tensors, path, common_parts.to_header(boxes) if boxes else None)
        entry = store.add_shared(request.folder, path)
    described = tuple(PoolTensor(name=name, row_shape=tuple(column[0].shape)) for name, column in rows.items())
    index = canonical_json(PoolShard(digests=digests, tensors=described, file=entry).model_dump(mode="json"))
    return PoolShard.model_validate_json(
        store.create_shard_index(f"{request.folder}/{_group_digest(digests)}.json", index)
    )


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


def _group_digest(digests: Iterable[str]) -> str:
    return digest_of(list(digests))


class PoolReader:
    """Rows of a pool's tensors by digest; shards are verified when first opened (``shared_rows`` says which are)."""

    def __init__(self, path: Path, store: Store) -> None:
        self._shards = TypeAdapter(list[PoolShard]).validate_json(path.read_bytes())
        self._places = {
            digest: (index, row) for index, shard in enumerate(self._shards) for row, digest in enumerate(shard.digests)
        }
        self._names = [tuple(entry.name for entry in shard.tensors) for shard in self._shards]
        self._rows = SharedRows(store)

    def rows(self, digests: Sequence[str]) -> list[tuple[Tensor, ...]]:
        """Return rows as they are stored; what is not on this machine is asked for at once."""
        places = [self._places[digest] for digest in digests]
        wanted = [WantedRow(self._shards[index].file, row, self._names[index]) for index, row in places]
        return self._rows.read(wanted)
