"""Rows of encoded shards wherever they are: in memory-mapped local files, or by byte ranges of remote ones.

A shard is fetched whole and verified by sha256 where the machine's cache has room for it. Of one that has none the rows
are asked for one by one, those of a batch at once; what is verified then is that the file's size and header are those
that were published, not its content.
"""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from softalign.artifacts import FileEntry
from softalign.config.sizes import bytes_of
from softalign.data.encoding.common_parts import Box, from_header, put_together, read_row
from softalign.store.store import Store

MAX_OPEN_SHARDS = 64
"""Memory-mapped, so an open shard costs a file handle and the pages that are read."""
LIMIT_VARIABLE = "SOFTALIGN_ENCODED_LIMIT"
"""Environment variable: how much of remote encodings is kept on this machine, such as ``200GB``; unset: all."""
_HEAD_BYTES = 2048
"""Of a shard are read at first: the headers of two tensors fit many times."""
_DTYPES = {"F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True, slots=True)
class WantedRow:
    """A row of each of some tensors of a shard."""

    file: FileEntry
    row: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Range:
    """Where a tensor's row lies in its file, and what it is."""

    start: int
    end: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _RowRanges:
    """Where the parts of a row lie."""

    boxes: tuple[Box, ...]
    parts: list[_Range]

    def tensor(self, data: Iterator[bytes]) -> Tensor:
        """Return the row of what was read of its parts."""
        return put_together(self.boxes, [_tensor(next(data), part) for part in self.parts])


class SharedRows:
    """Reads rows of shards that datasets share.

    Args:
        store: where the shards lie.

    Raises:
        ConfigError: ``SOFTALIGN_ENCODED_LIMIT`` is no size.
    """

    def __init__(self, store: Store) -> None:
        told = os.environ.get(LIMIT_VARIABLE)
        self._store, self._limit = store, bytes_of(told, LIMIT_VARIABLE) if told else None
        self._paths: dict[str, Path | None] = {}
        self._open: OrderedDict[str, _OpenShard] = OrderedDict()
        self._headers: dict[str, _Header] = {}

    def read(self, wanted: Sequence[WantedRow]) -> list[tuple[Tensor, ...]]:
        """Return the rows, as they are stored.

        Raises:
            IntegrityError: a shard is missing, truncated or changed.
            StorageUnavailableError: the store did not answer.
        """
        is_here = {one.file.path: self._path(one.file) is not None for one in wanted}
        remote = iter(self._ranges([one for one in wanted if not is_here[one.file.path]]))
        return [self._mapped(one) if is_here[one.file.path] else next(remote) for one in wanted]

    def _path(self, file: FileEntry) -> Path | None:
        """Return where a shard is on this machine; None where it is not to be fetched."""
        if file.path not in self._paths:
            self._paths[file.path] = self._store.fetch_shared_within(file, self._limit)
        return self._paths[file.path]

    def _mapped(self, wanted: WantedRow) -> tuple[Tensor, ...]:
        key = wanted.file.path
        if key not in self._open:
            self._open[key] = _OpenShard(safe_open(self._path(wanted.file), framework="pt"))
            if len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return tuple(self._open[key].row(name, wanted.row) for name in wanted.names)

    def _ranges(self, wanted: list[WantedRow]) -> list[tuple[Tensor, ...]]:
        unknown = {one.file.path: one.file for one in wanted if one.file.path not in self._headers}
        heads = self._store.read_shared_ranges([(file, 0, _HEAD_BYTES) for file in unknown.values()])
        for file, head in zip(unknown.values(), heads, strict=True):
            self._headers[file.path] = self._header(file, head)
        ranges = [self._places_of(one) for one in wanted]
        places = [
            (one.file, part.start, part.end)
            for one, rows in zip(wanted, ranges, strict=True)
            for row in rows
            for part in row.parts
        ]
        data = iter(self._store.read_shared_ranges(places))
        return [self._tensors(one, rows, data) for one, rows in zip(wanted, ranges, strict=True)]

    def _places_of(self, wanted: WantedRow) -> list[_RowRanges]:
        with self._flaws_of(wanted.file):
            return [self._headers[wanted.file.path].row(name, wanted.row) for name in wanted.names]

    def _tensors(self, wanted: WantedRow, rows: list[_RowRanges], data: Iterator[bytes]) -> tuple[Tensor, ...]:
        with self._flaws_of(wanted.file):
            return tuple(row.tensor(data) for row in rows)

    def _header(self, file: FileEntry, head: bytes) -> _Header:
        size = 8 + int.from_bytes(head[:8], "little")
        if len(head) < size <= file.size_bytes:
            (head,) = self._store.read_shared_ranges([(file, 0, size)])
        with self._flaws_of(file):
            return _Header(json.loads(head[8:size]), size, file)

    @contextmanager
    def _flaws_of(self, file: FileEntry) -> Iterator[None]:
        """Make what a damaged header runs into the file's flaw."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            found = f"a header that cannot be read: {type(error).__name__} {error}"
            raise self._store.damaged(file, found=found) from error


class _OpenShard:
    """A memory-mapped file."""

    def __init__(self, shard: Any) -> None:
        self._shard, self._boxes = shard, _Boxes(shard.metadata())

    def row(self, name: str, row: int) -> Tensor:
        boxes = self._boxes[name]
        return put_together(boxes, read_row(self._part, boxes, name, row))

    def _part(self, name: str, row: int) -> Tensor:
        part: Tensor = self._shard.get_slice(name)[row]
        return part


class _Header:
    """What a safetensors file says of its tensors: 8 bytes of length, JSON, then the tensors one behind the other."""

    def __init__(self, tensors: dict[str, Any], size: int, file: FileEntry) -> None:
        self._tensors, self._size = tensors, size
        self._boxes = _Boxes(tensors.get("__metadata__"))
        stored = [tensor for name, tensor in tensors.items() if name != "__metadata__"]
        end = size + max((tensor["data_offsets"][1] for tensor in stored), default=0)
        if end != file.size_bytes:
            raise ValueError(f"of a file of {end} bytes")
        for tensor in stored:
            start, end = tensor["data_offsets"]
            if end - start != math.prod(tensor["shape"]) * _DTYPES[tensor["dtype"]].itemsize:
                raise ValueError(f"{end - start} bytes for {tensor['dtype']} of {tensor['shape']}")

    def row(self, name: str, row: int) -> _RowRanges:
        return _RowRanges(self._boxes[name], read_row(self._part, self._boxes[name], name, row))

    def _part(self, name: str, row: int) -> _Range:
        tensor = self._tensors.get(name)
        if tensor is None or row >= tensor["shape"][0]:
            raise LookupError(f"no row {row} of {name}")
        dtype, shape = _DTYPES[tensor["dtype"]], tuple(tensor["shape"][1:])
        size = math.prod(shape) * dtype.itemsize
        start = self._size + tensor["data_offsets"][0] + row * size
        return _Range(start, start + size, dtype, shape)


class _Boxes(dict[str, tuple[Box, ...]]):
    """The boxes of a shard's tensors by their names, read when asked for."""

    def __init__(self, metadata: Mapping[str, str] | None) -> None:
        super().__init__()
        self._metadata = metadata

    def __missing__(self, name: str) -> tuple[Box, ...]:
        self[name] = from_header(self._metadata, name)
        return self[name]


def _tensor(data: bytes, place: _Range) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=place.dtype).reshape(place.shape)
