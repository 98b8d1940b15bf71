"""Tables in Parquet and Arrow IPC files, read batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from softalign.data.curation.opening import opened
from softalign.data.curation.parts import SourceFile
from softalign.data.curation.rows import Columns, OpenTable, Row, StoredImage, captions_of, findings_of_names, refuse
from softalign.errors import DataError

_ARROW_FILE = b"ARROW1"
_ROWS_OF_TEXT = 2048
_ROWS_OF_IMAGES = 16
"""Rows that are read at a time: a few MB, whatever the rows hold."""
_BUFFER_BYTES = 1 << 20


class ArrowTable:
    """An opened table with an Arrow schema.

    Args:
        schema: of all columns.
        batches: a function that yields record batches of some columns, with at most so many rows each.
        num_rows: how many there are, where the file says so.
        where: the table's URI.
    """

    def __init__(self, schema: Any, batches: Callable[[list[str], int], Any], num_rows: int | None, where: str) -> None:
        self._schema, self._batches, self._where = schema, batches, where
        self.names: list[str] = schema.names
        self.num_rows = num_rows

    def check(self, columns: Columns) -> None:
        """Refuse a table whose columns hold neither images nor text; see ``OpenTable``."""
        found = findings_of_names(self.names, columns, self._where)
        for name in columns.names:
            if self.names.count(name) == 1:
                expected_of = _is_image if name == columns.image else _is_captions
                found += _findings_of_type(self._schema.field(name).type, expected_of, f"{self._where}: {name}")
        refuse(found, self._where)

    def holds_images(self, column: str) -> bool:
        """Whether a column holds images themselves."""
        kind = self._schema.field(column).type
        return _is_bytes(kind) or _is_stored(kind)

    def rows(self, columns: Columns) -> Iterator[Row]:
        """Yield its rows."""
        most = _ROWS_OF_IMAGES if self.holds_images(columns.image) else _ROWS_OF_TEXT
        for batch in self._batches(list(columns.names), most):
            for start in range(0, batch.num_rows, most):
                part = batch.slice(start, most)
                captions = zip(*(_cells(part.column(name)) for name in columns.captions), strict=True)
                for image, cells in zip(_images(part.column(columns.image)), captions, strict=True):
                    yield Row(image, captions_of(cells, columns.weights))


@contextmanager
def open_parquet(file: SourceFile) -> Iterator[OpenTable]:
    """Open a Parquet file; for errors see ``opening.opened``."""
    import pyarrow.parquet as pq

    with opened(file, "Parquet file", is_seekable=True) as stream:
        parquet = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)

        def batches(names: list[str], most: int) -> Any:
            return parquet.iter_batches(batch_size=most, columns=names)

        yield ArrowTable(parquet.schema_arrow, batches, parquet.metadata.num_rows, file.uri)


@contextmanager
def open_arrow(file: SourceFile) -> Iterator[OpenTable]:
    """Open an Arrow IPC file, or a stream as Hugging Face datasets write it; for errors see ``opening.opened``."""
    import pyarrow as pa

    with opened(file, "Arrow file", is_seekable=True) as stream:
        is_file = stream.read(len(_ARROW_FILE)) == _ARROW_FILE
        stream.seek(0)
        reader = pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)

        def batches(names: list[str], _most: int) -> Iterator[Any]:
            found = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            for batch in found:
                wanted = batch.select(names)
                for column in wanted.columns:
                    _check_layout(column)
                yield wanted

        yield ArrowTable(reader.schema, batches, None, file.uri)


def _check_layout(array: Any) -> None:
    """Refuse an array that leads outside its memory: Arrow files are taken as they are, and damage ends the process.

    Texts are looked at as bytes, for those that are no UTF-8 cost their row alone.

    Raises:
        ArrowInvalid: offsets, lengths or indices are damaged.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array.indices.validate(full=True)
        _check_layout(array.dictionary)
        array.dictionary.take(array.indices)  # which checks that they are within
    else:
        array.validate()
        array.view(_as_bytes(array.type)).validate(full=True)


def _as_bytes(kind: Any) -> Any:
    """Return a type with bytes in the place of texts."""
    import pyarrow as pa

    known = ((pa.string(), pa.binary()), (pa.large_string(), pa.large_binary()), (pa.string_view(), pa.binary_view()))
    if found := [as_bytes for text, as_bytes in known if kind == text]:
        return found[0]
    if pa.types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in fields])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = kind.value_field.with_type(_as_bytes(kind.value_type))
        return pa.list_(inner) if pa.types.is_list(kind) else pa.large_list(inner)
    return kind


def _images(array: Any) -> list[object]:
    """Return a column's image cells: texts (bytes where a cell is no UTF-8), or stored images."""
    if _is_stored(array.type):
        import pyarrow.compute as pc  # which takes 20 MB

        names = [array.type.field(index).name for index in range(array.type.num_fields)]
        fields = [_cells(pc.struct_field(array, name)) if name in names else [None] * len(array) for name in _STORED]
        return [
            None if (data, path) == (None, None) else StoredImage(data, path)
            for data, path in zip(*fields, strict=True)
        ]
    if _is_bytes(array.type):
        return [None if data is None else StoredImage(data) for data in array.to_pylist()]
    return _cells(array)


def _cells(array: Any) -> list[Any]:
    """Return a column's values; bytes where a text is no UTF-8."""
    import pyarrow as pa

    flat = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    try:
        return list(flat.to_pylist())
    except UnicodeDecodeError:
        as_bytes = pa.large_list(pa.large_binary()) if _is_list(flat.type) else pa.large_binary()
        return [_text(cell) for cell in flat.cast(as_bytes).to_pylist()]


def _text(cell: Any) -> Any:
    if isinstance(cell, list):
        return [_text(inner) for inner in cell]
    try:
        return None if cell is None else cell.decode()
    except UnicodeDecodeError:
        return cell


_STORED = ("bytes", "path")
"""The fields of an image as Hugging Face datasets keep it."""


def _values_of(kind: Any) -> Any:
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    values = _values_of(kind)
    return bool(pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values))


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_stored(kind: Any) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
    data, path = (fields.get(name) for name in _STORED)
    is_path = path is None or _is_text(path) or pa.types.is_null(path)
    return bool(data is not None and _is_bytes(data) and is_path)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_image(kind: Any) -> str:
    is_known = _is_text(kind) or _is_bytes(kind) or _is_stored(kind)
    return "" if is_known else "paths as text, or images as bytes or as struct{bytes, path}"


def _is_captions(kind: Any) -> str:
    return "" if _is_text(kind) or (_is_list(kind) and _is_text(kind.value_type)) else "text, or lists of texts"


def _findings_of_type(kind: Any, expected_of: Callable[[Any], str], where: str) -> list[DataError]:
    import pyarrow as pa

    if pa.types.is_null(_values_of(kind)):
        empty = "A column of the captions table is empty."
        return [DataError(empty, expected="text", found="no value in any row", where=where)]
    if expected := expected_of(kind):
        return [
            DataError(
                "A column of the captions table cannot be used.",
                expected=expected,
                found=str(kind)[:500],
                where=where,
                fix="name another column of this source, or write such a one",
            )
        ]
    return []
