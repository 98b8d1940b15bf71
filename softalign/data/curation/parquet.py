"""Captions tables in Parquet: one row per caption, with the image's name in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from softalign.config.curation import ParquetSource
from softalign.data.curation.tables import CaptionTable, empty_table, kind_of, read_table
from softalign.errors import DataError

_ONE_ROW_EACH = "write one row for each caption (pandas: DataFrame.explode)"
_AS_FILES = "write what it holds to files below images_uri, and their paths into this column"


def check_parquet(source: ParquetSource) -> None:
    """Check a Parquet table's schema, without reading its rows.

    Raises:
        MissingInputError: the file is not there.
        DataError: it is no sound Parquet file, lacks its two columns of text, or has no row.
    """
    with _opened(source) as parquet:
        if parquet.metadata.num_rows == 0:
            raise empty_table(source.table_uri, "rows")


def read_parquet(source: ParquetSource) -> CaptionTable:
    """Return what a Parquet table lists for each image.

    Raises:
        MissingInputError: the file is not there.
        DataError: it is no sound Parquet file, or lacks its two columns of text.
    """
    table, refused = CaptionTable(), set[object]()
    with _opened(source) as parquet:
        for number, (cell, caption) in enumerate(_rows(parquet, (source.image_column, source.caption_column))):
            name = cell if isinstance(cell, str) and cell in table.captions else None
            if name is None and cell not in refused:
                name = table.add_image(cell, f"rows[{number}]")
            if name is not None:
                table.captions[name].append(caption)
            elif cell:  # each row without a name is one of its own
                refused.add(cell)
    if not table.captions and not table.flaws:
        raise empty_table(source.table_uri, "rows")
    return table


@contextmanager
def _opened(source: ParquetSource) -> Iterator[Any]:
    """Open a table with its two columns checked; what the library says of its bytes inside is the table's fault."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    where, data = source.table_uri, read_table(source.table_uri)
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        _check_columns(parquet.schema_arrow, (source.image_column, source.caption_column), where)
        yield parquet
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: of column names
        if isinstance(error, MemoryError):
            raise
        raise DataError(
            "The captions table is not a sound Parquet file.",
            expected="a Parquet file",
            found=f"{kind_of(data)}; {error}"[:500],
            where=where,
        ) from error


def _rows(parquet: Any, columns: tuple[str, str]) -> Iterator[tuple[object, object]]:
    for batch in parquet.iter_batches(columns=list(columns)):
        names, captions = (_cells(batch.column(name)) for name in columns)
        yield from zip(names, captions, strict=True)


def _cells(array: Any) -> list[str | bytes | None]:
    """Return a column's texts; bytes where a cell is no UTF-8."""
    import pyarrow as pa

    flat = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    try:
        return list(flat.to_pylist())
    except UnicodeDecodeError:
        return [_text(cell) for cell in flat.cast(pa.large_binary()).to_pylist()]


def _text(cell: bytes | None) -> str | bytes | None:
    try:
        return None if cell is None else cell.decode()
    except UnicodeDecodeError:
        return cell


def _check_columns(schema: Any, wanted: tuple[str, str], where: str) -> None:
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
        if schema.names.count(name) > 1:
            raise DataError(
                "The captions table has several columns of one name.",
                expected=f"one column {name}",
                found=f"columns {', '.join(schema.names)}",
                where=where,
                fix="rename or drop the others",
            )
        _check_text(schema.field(name).type, f"{where}: {name}")


def _check_text(kind: Any, where: str) -> None:
    import pyarrow as pa

    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_null(values):
        raise DataError(
            "A column of the captions table is empty.", expected="text", found="no value in any row", where=where
        )
    if not (pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)):
        raise DataError(
            "A column of the captions table is not text.",
            expected="string",
            found=str(kind),
            where=where,
            fix=_fix_of(values),
        )


def _fix_of(kind: Any) -> str:
    import pyarrow as pa

    if pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _AS_FILES
    return _ONE_ROW_EACH if pa.types.is_nested(kind) else "name the column that holds text"
