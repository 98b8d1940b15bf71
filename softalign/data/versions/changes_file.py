"""The rows of a table of caption changes, as people write it: CSV, TSV, JSON lines or Parquet."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from softalign.errors import DataError
from softalign.store.files import read_bytes

IDENTIFIERS = ("key", "file_name", "image_digest")
COLUMNS = ("action", *IDENTIFIERS, "caption", "before", "source")
_EXACT = frozenset({"file_name", "caption", "before"})
"""Whose white space is the row's own affair."""


def read_rows(uri: str) -> list[dict[str, str] | str]:
    """Return a table's rows, empty cells and missing ones as empty text; of a row that is none, why.

    Raises:
        MissingInputError: there is no such file.
        DataError: it is no table of changes.
    """
    data = read_bytes(uri)
    try:
        listed = _listed(uri.lower(), data)
        _require_columns(listed)
    except (ValueError, csv.Error, OSError) as error:
        raise DataError(
            "The table of caption changes cannot be read.",
            expected=f".csv, .tsv, .jsonl or .parquet (UTF-8) with columns of {', '.join(COLUMNS)}",
            found=str(error)[:500],
            where=uri,
            fix="correct the table, or write it anew as one of these; nothing was changed",
        ) from error
    if not listed:
        raise DataError("The table of caption changes is empty.", expected="at least one row", found="none", where=uri)
    return [", ".join(_flaws(row)) or {name: _text(name, cell) for name, cell in row.items()} for row in listed]


def _listed(name: str, data: bytes) -> list[dict[Any, Any]]:
    if name.endswith(".parquet"):
        return _parquet(data)
    if name.endswith((".jsonl", ".ndjson")):
        return list(_json_lines(_decoded(data).split("\n")))
    if name.endswith((".csv", ".tsv")):
        return _csv(_decoded(data), "\t" if name.endswith(".tsv") else ",")
    raise ValueError("a name that ends otherwise")


def _decoded(data: bytes) -> str:
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as spreadsheets write it
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def _json_lines(lines: Iterable[str]) -> Iterator[dict[Any, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"a row that is no object: {line[:80]}")
        yield row


def _csv(text: str, delimiter: str) -> list[dict[Any, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names = list(reader.fieldnames or ())
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise ValueError(f"several columns {twice[0]!r}")
    other = next((one for one in (",", ";", "\t") if one != delimiter and one in "".join(names)), None)
    if other is not None:
        raise ValueError(f"a header with {other!r} between its columns, not {delimiter!r}: {names[0][:80]!r}")
    rows: list[dict[Any, Any]] = []
    try:
        rows.extend(reader)
    except csv.Error as error:
        raise ValueError(f"after row {len(rows)}: {error}; a quotation mark may be missing") from error
    return rows


def _parquet(data: bytes) -> list[dict[Any, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    rows: list[dict[Any, Any]] = table.to_pylist()
    return rows


def _require_columns(rows: Sequence[dict[Any, Any]]) -> None:
    """Refuse columns that mean nothing, and tables without those that every row needs.

    Raises:
        ValueError: says which.
    """
    names = dict.fromkeys(name for row in rows for name in row if name is not None)
    if unknown := [str(name) for name in names if name not in COLUMNS]:
        shown = (f"{name}{_meant_by(name)}" if name else "one without a name (an index?)" for name in unknown)
        raise ValueError("columns that mean nothing here: " + ", ".join(shown))
    if rows and "action" not in names:
        raise ValueError("no column action")
    if rows and not set(IDENTIFIERS) & set(names):
        raise ValueError(f"no column of {', '.join(IDENTIFIERS)}")


def _meant_by(name: str) -> str:
    close = get_close_matches(name.strip().lower(), COLUMNS, 1)
    return f" (meant: {close[0]}?)" if close else ""


def _flaws(row: dict[Any, Any]) -> Iterator[str]:
    if None in row:
        yield "more cells than the header has columns"
    for name, cell in row.items():
        if name is not None and not isinstance(cell, str) and not _is_empty(cell):
            yield f"{name} holds {type(cell).__name__}, not text"


def _is_empty(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))  # as pandas writes what is missing


def _text(name: str, cell: object) -> str:
    if not isinstance(cell, str):
        return ""
    return cell if name in _EXACT else cell.strip()
