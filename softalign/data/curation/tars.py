"""The tars of shards: ``key.jpg``, ``key.json`` and ``key.txt`` of each sample.

``key.txt`` is the first caption, for readers that want one; ``key.json`` has all of them. Where captions are in the
index alone there is no ``key.txt``, and ``key.json`` says nothing of them. The image's extension is the same throughout
a dataset. Bytes depend on the samples only: no times, users or modes of the machine.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from softalign.artifacts import canonical_json
from softalign.data.curation.samples import Sample, caption_digest, weight_of
from softalign.data.curation.shards import (
    INDEX_SCHEMA,
    IndexRow,
    schema_with_weights,
    split_of,
    told_weights,
    write_index,
)
from softalign.store.files import replacing

_TAR_BLOCK_BYTES = 512
_BUFFER_BYTES = 1 << 20
_EMPTY_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
"""Of a member without name and content: all others differ in name, size and sum."""
_EMPTY_SUM = 256 + sum(_EMPTY_HEADER[:148]) + sum(_EMPTY_HEADER[156:])
_MAX_NAME_BYTES, _SIZE_DIGITS = 100, 11
CAPTION_FIELDS = frozenset({"caption_weights", *(name for name in INDEX_SCHEMA if name.startswith("caption"))})
NOT_IN_TARS = frozenset({"offset_bytes", "size_bytes"})
"""Columns of an index that its tar's ``key.json`` does not have."""


def texts_of(row: IndexRow, *, has_captions: bool = True) -> dict[str, bytes]:
    """Return what a tar holds of a sample beside its image, by the members' names."""
    left_out = NOT_IN_TARS if has_captions else NOT_IN_TARS | CAPTION_FIELDS
    metadata = {name: getattr(row, name) for name in schema_with_weights(INDEX_SCHEMA, [row]) if name not in left_out}
    texts = {f"{row.key}.json": canonical_json(metadata)}
    return texts | ({f"{row.key}.txt": row.captions[0].encode()} if has_captions else {})


def tar_bytes(sizes: Iterable[int]) -> int:
    """Return how large a tar of members of these sizes is."""
    blocks = sum(1 + -(-size // _TAR_BLOCK_BYTES) for size in sizes) + 2
    return -(-blocks * _TAR_BLOCK_BYTES // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def header_of(name: str, size: int) -> bytes:
    """Return a member's header, as ``tarfile`` makes it (POSIX ustar, mode 644, no time), in a tenth of its time."""
    named, sized = name.encode(), b"%0*o" % (_SIZE_DIGITS, size)
    if not name.isascii() or len(named) > _MAX_NAME_BYTES or len(sized) > _SIZE_DIGITS:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.USTAR_FORMAT)
    total = _EMPTY_SUM + sum(named) + sum(sized) - _SIZE_DIGITS * ord("0")
    return b"".join(
        (
            named.ljust(_MAX_NAME_BYTES, b"\0"),
            _EMPTY_HEADER[100:124],
            sized,
            _EMPTY_HEADER[135:148],
            b"%06o\0 " % total,
            _EMPTY_HEADER[156:],
        )
    )


class ShardTar:
    """A shard's tar: samples are appended, ``close`` makes it appear.

    Args:
        path: where it goes.
        has_captions: whether captions go into it.
    """

    def __init__(self, path: Path, *, has_captions: bool = True) -> None:
        self._opened = ExitStack()
        self._file = self._opened.enter_context(self._opened.enter_context(replacing(path)).open("wb", _BUFFER_BYTES))
        self._size_bytes, self._has_captions = 0, has_captions

    def append(self, row: IndexRow, image: bytes) -> int:
        """Append an image and its metadata; return where the image's bytes start."""
        offset = self._add_file(f"{row.key}.{row.extension}", image)
        for name, data in texts_of(row, has_captions=self._has_captions).items():
            self._add_file(name, data)
        return offset

    def close(self) -> None:
        """Finish the tar: two empty blocks, and more up to a whole record."""
        self._write(bytes(-(self._size_bytes + 2 * _TAR_BLOCK_BYTES) % tarfile.RECORDSIZE + 2 * _TAR_BLOCK_BYTES))
        self._opened.close()

    def _add_file(self, name: str, data: bytes) -> int:
        self._write(header_of(name, len(data)))
        offset = self._size_bytes
        self._write(data)
        self._write(bytes(-len(data) % _TAR_BLOCK_BYTES))
        return offset

    def _write(self, data: bytes) -> None:
        """Append some bytes, in one piece: ``tarfile`` copies 16 kB at a time."""
        self._file.write(data)
        self._size_bytes += len(data)


class ShardWriter:
    """Writes one shard: samples are appended, ``close`` makes tar and index appear.

    Args:
        folder: where the shard goes.
        name: from ``shard_name``.
        val_share: share of the images on the validation side.
        captions_in_tars: see ``CurationConfig``.
    """

    def __init__(self, folder: Path, name: str, val_share: float, *, captions_in_tars: bool = True) -> None:
        self.tar_path, self.index_path = folder / f"{name}.tar", folder / f"{name}.parquet"
        self._tar = ShardTar(self.tar_path, has_captions=captions_in_tars)
        self._val_share = val_share
        self._rows: list[IndexRow] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, sample: Sample, key: str) -> None:
        """Append a sample's image and its metadata."""
        number = len(sample.captions)
        row = IndexRow(
            key=key,
            split=split_of(sample.image_digest, self._val_share),
            image_digest=sample.image_digest,
            captions=list(sample.captions),
            caption_digests=[caption_digest(caption) for caption in sample.captions],
            caption_sources=[sample.source] * number,
            caption_files=[sample.filename] * number,
            width_px=sample.width_px,
            height_px=sample.height_px,
            source=sample.source,
            file_name=sample.filename,
            extension=sample.extension,
            offset_bytes=0,
            size_bytes=len(sample.image),
            perceptual_hash=f"{sample.perceptual_hash:064x}",
            source_digest=sample.source_digest,
            caption_weights=told_weights(map(weight_of, sample.captions)),
        )
        self.append(row, sample.image)

    def append(self, row: IndexRow, image: bytes) -> None:
        """Append an image and its metadata; where it lies in this shard is set here."""
        self._rows.append(replace(row, offset_bytes=self._tar.append(row, image)))

    def close(self) -> tuple[IndexRow, ...]:
        """Finish the shard and return its index rows; the index is written last."""
        self._tar.close()
        write_index(self.index_path, self._rows)
        return tuple(self._rows)


def rewrite_shard(folder: Path, target: Path, name: str, rows: Iterable[IndexRow]) -> None:
    """Write a shard into another folder, with the images it holds and other rows of them."""
    writer = ShardWriter(target, name, 0.0)
    with (folder / writer.tar_path.name).open("rb") as before:
        for row in rows:
            before.seek(row.offset_bytes)
            writer.append(row, before.read(row.size_bytes))
    writer.close()
