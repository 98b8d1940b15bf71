"""Tables in text files: CSV, TSV, and JSON lines, read line by line; a line that is no row spoils no other."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import IO, Any

from softalign.data.curation.opening import damaged, opened
from softalign.data.curation.parts import SourceFile
from softalign.data.curation.rejections import Flaw
from softalign.data.curation.rows import Columns, OpenTable, Row, captions_of, findings_of_names, refuse

_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""By how a file starts; the four bytes of UTF-32 before the two of UTF-16, which they begin with."""
_NUM_JUDGED = 100
"""Lines whose names of fields are taken for the table's columns."""


class CsvTable:
    """An opened CSV or TSV file; its first line names the columns.

    Args:
        text: its characters, line ends as they are.
        delimiter: between fields.
        where: the table's URI.
    """

    num_rows = None

    def __init__(self, text: IO[str], delimiter: str, where: str) -> None:
        self._rows = csv.reader(text, delimiter=delimiter, strict=True)
        self._where = where
        try:
            self.names = next(self._rows, [])
        except csv.Error as error:
            raise damaged(where, "CSV file", f"a first line that names no columns; {error}") from error

    def check(self, columns: Columns) -> None:
        """Refuse a table that lacks a column; see ``OpenTable``."""
        refuse(findings_of_names(self.names, columns, self._where), self._where)

    def holds_images(self, column: str) -> bool:
        """Whether a column holds images themselves: never."""
        return False

    def rows(self, columns: Columns) -> Iterator[Row]:
        """Yield its rows; lines of nothing are none."""
        image = self.names.index(columns.image)
        captions = [self.names.index(name) for name in columns.captions]
        while True:
            try:
                cells = next(self._rows)
            except StopIteration:
                return
            except csv.Error as error:  # the reader goes on with the next line
                yield Row(None, (), Flaw("unusable_entry", _flaw_of_line(error)))
                continue
            if len(cells) == len(self.names):
                yield Row(cells[image], captions_of([cells[index] for index in captions], columns.weights))
            elif cells:
                yield Row(None, (), Flaw("unusable_entry", f"{len(cells)} fields in place of {len(self.names)}"))


class JsonTable:
    """An opened file of JSON lines: an object each.

    Args:
        text: its characters.
        where: the table's URI.
    """

    num_rows = None

    def __init__(self, text: IO[str], where: str) -> None:
        self._where = where
        entries = map(_parsed, (line for line in text if line.strip()))
        judged = list(islice(entries, _NUM_JUDGED))
        self.names = list(dict.fromkeys(str(name) for entry in judged if isinstance(entry, dict) for name in entry))
        if judged and not self.names:
            raise damaged(where, "file of JSON lines", "no object with fields in its first lines")
        self._entries = chain(judged, entries)

    def check(self, columns: Columns) -> None:
        """Refuse a table whose first lines lack a column; see ``OpenTable``."""
        if self.names:
            refuse(findings_of_names(self.names, columns, self._where), self._where)

    def holds_images(self, column: str) -> bool:
        """Whether a column holds images themselves: never."""
        return False

    def rows(self, columns: Columns) -> Iterator[Row]:
        """Yield its rows."""
        for entry in self._entries:
            if isinstance(entry, dict):
                cells = [entry.get(name) for name in columns.captions]
                yield Row(entry.get(columns.image), captions_of(cells, columns.weights))
            else:
                yield Row(None, (), Flaw("unusable_entry", "no JSON object"))


@contextmanager
def open_csv(file: SourceFile) -> Iterator[OpenTable]:
    """Open a file of values with commas between them; for errors see ``opening.opened``."""
    with _text_of(file, "CSV file") as text:
        yield CsvTable(text, ",", file.uri)


@contextmanager
def open_tsv(file: SourceFile) -> Iterator[OpenTable]:
    """Open a file of values with tabulators between them; for errors see ``opening.opened``."""
    with _text_of(file, "TSV file") as text:
        yield CsvTable(text, "\t", file.uri)


@contextmanager
def open_jsonl(file: SourceFile) -> Iterator[OpenTable]:
    """Open a file of JSON lines; for errors see ``opening.opened``."""
    with _text_of(file, "file of JSON lines") as text:
        yield JsonTable(text, file.uri)


@contextmanager
def _text_of(file: SourceFile, kind: str) -> Iterator[IO[str]]:
    """Open a file as text: UTF-8, or as its first bytes say; bytes that are none become halves of characters."""
    with opened(file, kind) as stream:
        buffered = io.BufferedReader(_Raw(stream))
        start = buffered.peek(4)[:4]
        encoding = next((name for bom, name in _ENCODINGS.items() if start.startswith(bom)), "utf-8-sig")
        errors = "surrogateescape" if encoding == "utf-8-sig" else "surrogatepass"
        # line ends stay as they are: the CSV reader needs them, and JSON takes them for white space
        yield io.TextIOWrapper(buffered, encoding, errors, newline="")


class _Raw(io.RawIOBase):
    """Any file object as a raw stream, which is left open."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _flaw_of_line(error: csv.Error) -> str:
    if str(error).startswith("field larger than field limit"):
        return f"a field of more than {csv.field_size_limit()} characters, as where a quote is not closed"
    return "quotes that are not closed, or not doubled"


def _parsed(line: str) -> Any:
    """Return what a line says; None where it is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
