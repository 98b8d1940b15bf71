"""Sources: captions tables as a data team hands them over, read as one stream of listed samples.

A table is read whole (text only: about 0.5 GB for the 590 000 captions of COCO); images are read one by one, later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from softalign.config import CocoSource, ParquetSource, ShapesSource, Source
from softalign.curation.rendering import render_source
from softalign.curation.samples import ListedSample
from softalign.errors import DataError
from softalign.storage import read_bytes


def list_sources(sources: tuple[Source, ...], work_path: Path) -> Iterator[ListedSample]:
    """Yield the samples of all sources in order; scenes of the embedded world are rendered below ``work_path`` first.

    Raises:
        MissingInputError: a table is not there.
        DataError: a table cannot be used; says which row or column.
    """
    for index, source in enumerate(sources):
        name = f"{index}-{source.type}"
        yield from list_samples(source, name, work_path / name)


def list_samples(source: Source, name: str, work_path: Path) -> Iterator[ListedSample]:
    """Yield one source's samples, images in the table's order.

    Raises:
        MissingInputError: the table is not there.
        DataError: the table cannot be used.
    """
    if isinstance(source, ShapesSource):
        source = render_source(source, work_path)
    captions = read_coco(source) if isinstance(source, CocoSource) else _read_parquet(source)
    for file_name, texts in captions.items():
        yield ListedSample(name, file_name, source.images_uri, tuple(texts))


def check_table(source: CocoSource | ParquetSource) -> None:
    """Check a captions table without reading rows of a Parquet file.

    Raises:
        MissingInputError: the table is not there.
        DataError: the table cannot be used.
    """
    if isinstance(source, CocoSource):
        read_coco(source)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = source.table_uri
    data = pa.BufferReader(read_bytes(where))
    try:
        parquet = pq.ParquetFile(data)
    except (pa.ArrowException, OSError) as error:
        raise DataError("The captions table is not a sound Parquet file.", found=str(error), where=where) from error
    _check_columns(parquet.schema_arrow, [source.image_column, source.caption_column], where)
    if parquet.metadata.num_rows == 0:
        raise _empty_table(where, "rows")


def image_uri(listed: ListedSample) -> str | None:
    """Return the URI of a listed sample's image, or None if its name would lead outside the image folder."""
    path = PurePosixPath(listed.file_name.replace("\\", "/"))
    is_inside = path.parts and not path.is_absolute() and ".." not in path.parts and ":" not in path.parts[0]
    if not is_inside or "\0" in listed.file_name:
        return None
    return f"{listed.images_uri.rstrip('/')}/{listed.file_name}"


def read_coco(source: CocoSource) -> dict[str, list[object]]:
    """Return what a COCO file lists for each image: its captions, unchecked.

    Raises:
        MissingInputError: the file is not there.
        DataError: it is not in COCO's format.
    """
    where = source.annotations_uri
    try:
        table = json.loads(read_bytes(where))
    except (ValueError, RecursionError) as error:
        raise DataError("The captions file is not valid JSON.", found=str(error), where=where) from error
    images = _coco_list(table, "images", where)
    annotations = _coco_list(table, "annotations", where)
    names: dict[object, str] = {}
    for index, image in enumerate(images):
        image_id, file_name = _fields(image, ("id", "file_name"), f"images[{index}]", where)
        if not isinstance(file_name, str) or not isinstance(image_id, int | str) or image_id in names:
            raise DataError(
                "An image entry of the captions file cannot be used.",
                expected="a unique id and a file_name that is text",
                found=f"id {image_id!r}, file_name {file_name!r}"[:200],
                where=f"{where}: images[{index}]",
            )
        names[image_id] = file_name
    captions: dict[str, list[object]] = {name: [] for name in names.values()}
    for index, annotation in enumerate(annotations):
        image_id, caption = _fields(annotation, ("image_id", "caption"), f"annotations[{index}]", where)
        if not isinstance(image_id, int | str) or image_id not in names:
            raise DataError(
                "An annotation names an image that is not in the captions file.",
                expected="an id of the list images",
                found=f"image_id {image_id!r}"[:200],
                where=f"{where}: annotations[{index}]",
                fix="hand over images and annotations of the same export",
            )
        captions[names[image_id]].append(caption)
    return captions


def _coco_list(table: Any, name: str, where: str) -> list[Any]:
    entries = table.get(name) if isinstance(table, dict) else None
    if not isinstance(entries, list):
        raise DataError(
            "The captions file is not in COCO's format.",
            expected=f"an object with a list {name!r}",
            found=f"keys {sorted(table)[:10]}" if isinstance(table, dict) else type(table).__name__,
            where=where,
        )
    if not entries:
        raise _empty_table(where, name)
    return entries


def _fields(entry: Any, names: tuple[str, str], label: str, where: str) -> tuple[Any, Any]:
    missing = [name for name in names if not isinstance(entry, dict) or name not in entry]
    if missing:
        raise DataError(
            "An entry of the captions file lacks a field.",
            expected=f"fields {', '.join(names)}",
            found=f"without {', '.join(missing)}",
            where=f"{where}: {label}",
        )
    return entry[names[0]], entry[names[1]]


def _read_parquet(source: ParquetSource) -> dict[str, list[object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = source.table_uri
    wanted = [source.image_column, source.caption_column]
    data = pa.BufferReader(read_bytes(where))
    captions: dict[str, list[object]] = {}
    try:
        parquet = pq.ParquetFile(data)
        _check_columns(parquet.schema_arrow, wanted, where)
        for batch in parquet.iter_batches(columns=wanted):
            names, texts = (batch.column(column).to_pylist() for column in wanted)
            for name, text in zip(names, texts, strict=True):
                captions.setdefault(name or "", []).append(text)
    except (pa.ArrowException, OSError) as error:
        raise DataError("The captions table is not a sound Parquet file.", found=str(error), where=where) from error
    if not captions:
        raise _empty_table(where, "rows")
    return captions


def _check_columns(schema: Any, wanted: list[str], where: str) -> None:
    import pyarrow as pa

    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise DataError(
            "The captions table lacks a column.",
            expected=f"columns {', '.join(wanted)}",
            found=f"columns {', '.join(schema.names) or 'none'}",
            where=where,
            fix="set image_column and caption_column of this source",
        )
    for name in wanted:
        kind = schema.field(name).type
        values = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(values) or pa.types.is_large_string(values)):
            raise DataError(
                "A column of the captions table is not text.",
                expected="string",
                found=str(kind),
                where=f"{where}: {name}",
            )


def _empty_table(where: str, name: str) -> DataError:
    return DataError("The captions table is empty.", expected="at least one row", found=f"0 rows ({name})", where=where)
