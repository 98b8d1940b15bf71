"""Prompts from a file: one a line, or the column ``prompt`` of a CSV, JSON-lines or Parquet table.

A prompt's place in the file is the index its noise is drawn from, so nothing is skipped silently but empty lines.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from softalign.data.curation.names import has_surrogates
from softalign.errors import ConfigError, DataError
from softalign.store.files import read_bytes

COLUMN = "prompt"
SHOWN_PROBLEMS = 5
"""How many bad lines an error names."""
Numbered = Iterator[tuple[int, object]]
"""Line or row numbers, from 1, and what was found there: a prompt, or something that is none."""


class _BadLine(ValueError):
    """What is wrong with a line."""


def read_prompts(uri: str) -> tuple[str, ...]:
    """Return a file's prompts, in order.

    Args:
        uri: a path, or any URI that stores have. Its ending says what it is: ``.csv``, ``.jsonl``, ``.parquet``; any
            other: one prompt a line, UTF-8, empty lines left out.

    Raises:
        MissingInputError: there is no such file.
        DataError: it holds no prompt, or something else; names the lines.
        ConfigError: Parquet cannot be read, as pyarrow is not installed.
    """
    data = read_bytes(uri)
    reader = _READERS.get(PurePosixPath(uri).suffix.lower(), _lines)
    found = [(number, value, _problem(value)) for number, value in reader(data, uri)]
    unit = "row" if reader is _parquet_rows else "line"
    bad = [f"{unit} {number}: {problem}" for number, _, problem in found if problem]
    if bad or not found:
        more = len(bad) - SHOWN_PROBLEMS
        raise DataError(
            "This file's prompts cannot be used." if bad else "There is no prompt in this file.",
            expected="one prompt a line, or a table with a column of them",
            found="; ".join(bad[:SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else ""),
            where=uri,
        )
    return tuple(str(value) for _, value, _ in found)


def require_texts(prompts: Iterable[str]) -> None:
    """Refuse prompts that no file can hold.

    Raises:
        ConfigError: one has zero bytes or halves of characters, as arguments have that are not UTF-8.
    """
    for prompt in prompts:
        if flaw := _flaw(prompt):
            raise ConfigError("This prompt is no text.", expected="UTF-8", found=f"{flaw}: {ascii(prompt)[:200]}")


def _flaw(text: str) -> str:
    return "a zero byte" if "\0" in text else "halves of characters" if has_surrogates(text) else ""


def _problem(value: object) -> str:
    if isinstance(value, _BadLine):
        return str(value)
    if not isinstance(value, str):
        return f"no text in {COLUMN}, but {type(value).__name__}" if value is not None else f"no {COLUMN}"
    if not value.strip():
        return f"{COLUMN} is empty"
    return _flaw(value)


def _texts(data: bytes) -> Numbered:
    """Yield a text file's lines; those that are not UTF-8 as what is wrong with them."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            yield number, line.removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            yield number, _BadLine("not UTF-8")


def _lines(data: bytes, _uri: str) -> Numbered:
    return ((number, text) for number, text in _texts(data) if not (isinstance(text, str) and not text.strip()))


def _json_lines(data: bytes, uri: str) -> Numbered:
    for number, text in _lines(data, uri):
        yield number, _from_json(text) if isinstance(text, str) else text


def _from_json(text: str) -> object:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return _BadLine("no JSON")
    return row.get(COLUMN) if isinstance(row, dict) else _BadLine("no JSON object")


def _csv_rows(data: bytes, uri: str) -> Numbered:
    bad = [(number, text) for number, text in _texts(data) if isinstance(text, _BadLine)]
    if bad:
        yield from bad
        return
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    try:
        _require_column(rows.fieldnames or (), uri)
        for row in rows:
            yield rows.line_num, row[COLUMN]
    except csv.Error as error:
        yield rows.line_num + 1, _BadLine(str(error))  # a line that breaks off is not counted


def _parquet_rows(data: bytes, uri: str) -> Numbered:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow.", where=uri, fix="pip install 'softalign[pipeline]'") from error
    try:
        table = pq.ParquetFile(pa.BufferReader(data))
        _require_column(table.schema_arrow.names, uri)
        column: list[Any] = table.read(columns=[COLUMN]).column(0).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError("This is no sound Parquet file.", found=str(error)[:200], where=uri) from error
    yield from enumerate(column, start=1)


def _require_column(names: Any, uri: str) -> None:
    if list(names).count(COLUMN) != 1:
        raise DataError(
            "The table has no column of prompts.",
            expected=f"one column {COLUMN}",
            found=f"columns {', '.join(map(str, names)) or 'none'}",
            where=uri,
            fix=f"name the column {COLUMN}",
        )


_READERS = {".csv": _csv_rows, ".jsonl": _json_lines, ".parquet": _parquet_rows}
