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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from softalign.artifacts import FileEntry
from softalign.config.sizes import bytes_of
from softalign.errors import IntegrityError
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
        self._open: OrderedDict[str, Any] = OrderedDict()
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
            self._open[key] = safe_open(self._path(wanted.file), framework="pt")
            if len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return tuple(self._open[key].get_slice(name)[wanted.row] for name in wanted.names)

    def _ranges(self, wanted: list[WantedRow]) -> list[tuple[Tensor, ...]]:
        unknown = {one.file.path: one.file for one in wanted if one.file.path not in self._headers}
        heads = self._store.read_shared_ranges([(file, 0, _HEAD_BYTES) for file in unknown.values()])
        for file, head in zip(unknown.values(), heads, strict=True):
            self._headers[file.path] = self._header(file, head)
        ranges = [[self._headers[one.file.path].row(name, one.row) for name in one.names] for one in wanted]
        places = [(one.file, row.start, row.end) for one, rows in zip(wanted, ranges, strict=True) for row in rows]
        data = iter(self._store.read_shared_ranges(places))
        return [tuple(_tensor(next(data), row) for row in rows) for rows in ranges]

    def _header(self, file: FileEntry, head: bytes) -> _Header:
        size = 8 + int.from_bytes(head[:8], "little")
        if len(head) < size <= file.size_bytes:
            (head,) = self._store.read_shared_ranges([(file, 0, size)])
        try:
            return _Header(json.loads(head[8:size]), size, file)
        except ValueError as error:
            raise self._store.damaged(file, found=f"a header that cannot be read: {error}") from error


class _Header:
    """What a safetensors file says of its tensors: 8 bytes of length, JSON, then the tensors one behind the other."""

    def __init__(self, tensors: dict[str, Any], size: int, file: FileEntry) -> None:
        self._tensors, self._size, self._file = tensors, size, file
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
        if size + max(ends, default=0) != file.size_bytes:
            raise ValueError(f"of a file of {size + max(ends, default=0)} bytes")

    def row(self, name: str, row: int) -> _Range:
        tensor = self._tensors.get(name)
        if tensor is None or row >= tensor["shape"][0]:
            raise IntegrityError("An encoded shard lacks a row.", expected=f"{name}, row {row}", where=self._file.path)
        dtype, shape = _DTYPES[tensor["dtype"]], tuple(tensor["shape"][1:])
        size = math.prod(shape) * dtype.itemsize
        start = self._size + tensor["data_offsets"][0] + row * size
        return _Range(start, start + size, dtype, shape)


def _tensor(data: bytes, place: _Range) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=place.dtype).reshape(place.shape)
