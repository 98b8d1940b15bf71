"""WebDataset shards: a tar (``tars``) each, with a Parquet index of its samples beside it, whose rows these are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from softalign.artifacts import digest_of
from softalign.data.curation.rejections import Rejection
from softalign.data.curation.samples import caption_digest
from softalign.store.files import replacing

Split = Literal["train", "val"]


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """What every table of images says of one: its key, its side, its content's digest and its captions."""

    key: str
    split: Split
    image_digest: str
    captions: list[str]
    caption_digests: list[str]


class Weighted(Protocol):
    """A row that may say how often its captions are drawn."""

    @property
    def caption_weights(self) -> tuple[float, ...]:
        """One for each caption; empty: all alike."""
        ...


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, where it was listed, and how often it is drawn beside others of its image."""

    text: str
    source: str
    file_name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class IndexRow(CaptionedImage):
    """One sample of a shard, as its Parquet index lists it.

    Attributes:
        caption_sources: the source that each caption is from; the row's own, or that of an exact duplicate.
        caption_files: the file that each caption was listed for, likewise.
        extension: of the image in the tar, which says little of its format: see ``CurationConfig.image_format``.
        offset_bytes: where the image's bytes start in the tar; they are ``size_bytes`` long.
        perceptual_hash: hexadecimal.
        source_digest: sha256 hex digest of the source's file, where the image was saved anew; else empty.
        caption_weights: how often each caption is drawn, relative to the others; empty: all alike.
    """

    caption_sources: list[str]
    caption_files: list[str]
    width_px: int
    height_px: int
    source: str
    file_name: str
    extension: str
    offset_bytes: int
    size_bytes: int
    perceptual_hash: str
    source_digest: str = ""
    caption_weights: tuple[float, ...] = ()

    def origins(self) -> tuple[Caption, ...]:
        """Return the captions with where each was listed, and their weights."""
        weights = self.caption_weights or [1.0] * len(self.captions)
        return tuple(map(Caption, self.captions, self.caption_sources, self.caption_files, weights))

    def with_captions(self, captions: Iterable[Caption]) -> IndexRow:
        """Return the row with other captions."""
        listed = tuple(captions)
        return replace(
            self,
            captions=[caption.text for caption in listed],
            caption_digests=[caption_digest(caption.text) for caption in listed],
            caption_sources=[caption.source for caption in listed],
            caption_files=[caption.file_name for caption in listed],
            caption_weights=told_weights(caption.weight for caption in listed),
        )


def told_weights(weights: Iterable[float]) -> tuple[float, ...]:
    """Return weights as rows have them: none where all are 1."""
    told = tuple(weights)
    return told if any(weight != 1.0 for weight in told) else ()


def shard_name(index: int) -> str:
    """Return a shard's file name without suffix."""
    return f"shard-{index:06d}"


def split_of(image_digest: str, val_share: float) -> Split:
    """Return the side an image is on: by its content alone, so it never changes sides when a dataset grows."""
    return "val" if int(digest_of(["split", image_digest])[:8], 16) < val_share * 2**32 else "train"


INDEX_SCHEMA = {
    "key": "string",
    "split": "string",
    "image_digest": "string",
    "captions": "list",
    "caption_digests": "list",
    "caption_sources": "list",
    "caption_files": "list",
    "width_px": "int32",
    "height_px": "int32",
    "source": "string",
    "file_name": "string",
    "extension": "string",
    "offset_bytes": "int64",
    "size_bytes": "int64",
    "perceptual_hash": "string",
}
REJECTED_SCHEMA = {
    "source": "string",
    "file_name": "string",
    "reason": "string",
    "detail": "string",
    "caption_index": "int32",
}


def schema_with_weights(schema: dict[str, str], rows: Iterable[Weighted]) -> dict[str, str]:
    """Return a schema with the captions' weights, if a row has some."""
    return schema | ({"caption_weights": "doubles"} if any(row.caption_weights for row in rows) else {})


def write_table(path: Path, rows: Iterable[object], schema: dict[str, str]) -> None:
    """Write rows as Parquet, atomically; the same rows give the same bytes.

    Args:
        path: of the table.
        rows: records whose attributes are named like the columns.
        schema: each column's kind, by name: ``string``, ``int32``, ``int64``, ``double``, ``list`` (of
            strings), ``lists`` or ``doubles`` (a list).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "list": pa.list_(pa.string())}
    types |= {"lists": pa.list_(types["list"]), "double": pa.float64(), "doubles": pa.list_(pa.float64())}
    values = [{name: getattr(row, name) for name in schema} for row in rows]
    table = pa.Table.from_pylist(values, schema=pa.schema([(name, types[kind]) for name, kind in schema.items()]))
    with replacing(path) as made:
        pq.write_table(table, made, compression="zstd")


def write_index(path: Path, rows: Sequence[IndexRow]) -> None:
    """Write a shard's index; ``source_digest`` is a column of datasets whose images were saved anew, of no others."""
    is_saved_anew = any(row.source_digest for row in rows)
    schema = INDEX_SCHEMA | ({"source_digest": "string"} if is_saved_anew else {})
    write_table(path, rows, schema_with_weights(schema, rows))


def read_index(path: Path) -> tuple[IndexRow, ...]:
    """Return the rows of a shard's index; in those of earlier versions all captions are the file's own."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path, partitioning=None).to_pylist()
    return tuple(IndexRow(**_own_origins(row) | row | _weights(row)) for row in rows)


def _weights(row: dict[str, Any]) -> dict[str, Any]:
    return {"caption_weights": tuple(row.get("caption_weights") or ())}


def _own_origins(row: dict[str, Any]) -> dict[str, Any]:
    number = len(row["captions"])
    return {"caption_sources": [row["source"]] * number, "caption_files": [row["file_name"]] * number}


def write_rejections(path: Path, rejections: Iterable[Rejection]) -> None:
    """Write rejections as Parquet; ``caption`` is a column where one of a caption is among them, in no other file."""
    listed = list(rejections)
    has_captions = any(one.caption for one in listed)
    write_table(path, listed, REJECTED_SCHEMA | ({"caption": "string"} if has_captions else {}))


def read_rejections(path: Path) -> Iterator[Rejection]:
    """Yield the rejections of a Parquet file."""
    import pyarrow.parquet as pq

    for row in pq.read_table(path, partitioning=None).to_pylist():
        yield Rejection(**row)
