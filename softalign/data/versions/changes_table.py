"""A table of caption changes as people write it, turned into edits by source and file name.

CSV, TSV, JSON lines or Parquet, with the columns ``action`` (add, change, remove), one of ``key``, ``file_name`` and
``image_digest``, ``caption`` (what comes), ``before`` (what goes; of ``remove`` empty: all captions of the image), and
``source`` where a file name is one of several sources.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast, get_args

from softalign.data.curation.changes import Action, CaptionEdit, cannot_apply
from softalign.data.curation.names import has_surrogates
from softalign.data.curation.published import OpenedDataset
from softalign.errors import DataError
from softalign.store.files import read_bytes

ACTIONS: tuple[str, ...] = get_args(Action)
IDENTIFIERS = ("key", "file_name", "image_digest")
COLUMNS = ("action", *IDENTIFIERS, "caption", "before", "source")

Place = tuple[str, str]
"""A source's name and a file name of it."""


def read_changes(uri: str, dataset: OpenedDataset, sources: Iterable[str]) -> tuple[CaptionEdit, ...]:
    """Return the edits that a table of changes asks for.

    Args:
        uri: of the table; its name ends with ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.
        dataset: what is changed; says which image a key or digest is.
        sources: names of the dataset's sources: an image that is not there yet belongs to the only one, or to that of
            the column ``source``.

    Raises:
        MissingInputError: there is no such file.
        DataError: it cannot be read, or some of its rows name no image or action; all of them are listed.
    """
    rows = list(_rows(uri))
    if not rows:
        raise DataError("The table of caption changes is empty.", expected="at least one row", found="none", where=uri)
    places, findings = _Places(dataset, tuple(sources)), list[str]()
    edits = [edit for number, row in enumerate(rows, start=1) if (edit := _edit(row, number, places, findings))]
    if findings:
        raise cannot_apply(findings, uri)
    return tuple(edits)


class _Places:
    """Where images are, by everything that rows name them by."""

    def __init__(self, dataset: OpenedDataset, sources: tuple[str, ...]) -> None:
        self.sources = sources
        self._by: dict[str, dict[str, list[Place]]] = {name: {} for name in IDENTIFIERS}
        for one in dataset.samples():
            place = (one.row.source, one.row.file_name)
            for name in IDENTIFIERS:
                self._by[name].setdefault(getattr(one.row, name), []).append(place)
        for lost in dataset.rejections():
            if lost.caption_index < 0:
                self._by["file_name"].setdefault(lost.file_name, []).append((lost.source, lost.file_name))

    def find(self, identifier: str, value: str, source: str, *, is_new_allowed: bool) -> Place | str:
        """Return the place of an image, or why there is none."""
        found = self._by[identifier].get(value, [])
        found = [place for place in dict.fromkeys(found) if source in {"", place[0]}]
        if len(found) > 1:
            return (
                f"{identifier} {value[:80]!r} names several images: add the column source ({', '.join(self.sources)})"
            )
        if found:
            return found[0]
        if identifier != "file_name" or not is_new_allowed:
            return f"no image has the {identifier} {value[:80]!r}"
        names = [name for name in self.sources if source in {"", name}]
        if len(names) != 1:
            return f"{value[:80]!r} is new: add the column source ({', '.join(self.sources)})"
        return names[0], value


def _edit(row: Mapping[str, str], number: int, places: _Places, findings: list[str]) -> CaptionEdit | None:
    """Return a row's edit; None where it has none, which goes to ``findings``."""
    action = row.get("action", "").strip().lower()
    named = [name for name in IDENTIFIERS if row.get(name)]
    found: Place | str
    if action not in ACTIONS:
        found = f"action {action[:80]!r} is none of {', '.join(ACTIONS)}"
    elif len(named) != 1:
        found = f"one of {', '.join(IDENTIFIERS)} names the image, not {' and '.join(named) or 'none'}"
    elif any(has_surrogates(text) for text in row.values()):
        found = "no valid Unicode"
    else:
        found = places.find(named[0], row[named[0]], row.get("source", ""), is_new_allowed=action == "add")
    if isinstance(found, str):
        findings.append(f"row {number}: {found}")
        return None
    return CaptionEdit(
        source=found[0],
        file_name=found[1],
        action=cast(Action, action),
        before=row.get("before", ""),
        caption=row.get("caption", ""),
    )


def _rows(uri: str) -> Iterator[dict[str, str]]:
    """Yield the table's rows, empty cells and missing ones as empty text."""
    name, data = uri.lower(), read_bytes(uri)
    try:
        if name.endswith(".parquet"):
            listed = _parquet(data)
        elif name.endswith((".jsonl", ".ndjson")):
            listed = [json.loads(line) for line in data.decode("utf-8-sig").splitlines() if line.strip()]
        elif name.endswith((".csv", ".tsv")):
            text = io.StringIO(data.decode("utf-8-sig"), newline="")
            listed = list(csv.DictReader(text, delimiter="\t" if name.endswith(".tsv") else ",", strict=True))
        else:
            raise ValueError("a name that ends otherwise")
        yield from (_texts(row) for row in listed)
    except (ValueError, csv.Error, OSError) as error:
        raise DataError(
            "The table of caption changes cannot be read.",
            expected=f".csv, .tsv, .jsonl or .parquet with columns of {', '.join(COLUMNS)}",
            found=str(error)[:300],
            where=uri,
        ) from error


def _parquet(data: bytes) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(data)).to_pylist()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    return rows


def _texts(row: Any) -> dict[str, str]:
    if not isinstance(row, dict):
        raise ValueError(f"a row that is no object: {str(row)[:80]}")
    unknown = sorted(str(name) for name in row if name not in COLUMNS)
    if unknown:
        raise ValueError(f"columns {', '.join(unknown)}")
    wrong = [name for name, cell in row.items() if not isinstance(cell, str | None)]
    if wrong:
        raise ValueError(f"{wrong[0]} holds {type(row[wrong[0]]).__name__}, not text")
    return {name: cell or "" for name, cell in row.items()}
