"""What every kind of table comes to: rows with an image cell and captions, whatever the file's format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from softalign.data.curation.rejections import Flaw
from softalign.data.curation.samples import WeightedCaption
from softalign.errors import DataError


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table that are read; without ``weights`` all captions weigh the same."""

    image: str
    captions: tuple[str, ...]
    weights: tuple[float, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, each once, the image's first."""
        return tuple(dict.fromkeys((self.image, *self.captions)))


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image cell as Hugging Face datasets keep it; without bytes the path says where they are."""

    data: bytes | None
    path: object = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        image: a text, bytes that are no UTF-8, a ``StoredImage``, or whatever else the cell holds.
        captions: unchecked.
        flaw: why the line is no row, so that it has neither.
    """

    image: object
    captions: tuple[object, ...]
    flaw: Flaw | None = None


class OpenTable(Protocol):
    """A table's file, opened: it is checked, then read once from its start."""

    @property
    def names(self) -> Sequence[str]:
        """What its columns are called."""
        ...

    @property
    def num_rows(self) -> int | None:
        """How many rows it announces; None where that is known at its end only."""
        ...

    def check(self, columns: Columns) -> None:
        """Refuse a table that lacks a column, or whose columns hold neither images nor text.

        Raises:
            DataError: says which column, and what is there.
        """
        ...

    def holds_images(self, column: str) -> bool:
        """Whether a column holds images themselves, not where they are."""
        ...

    def rows(self, columns: Columns) -> Iterator[Row]:
        """Yield its rows."""
        ...


def captions_of(cells: Sequence[object], weights: Sequence[float] = ()) -> tuple[object, ...]:
    """Return the captions of a row's cells: lists are several; of several columns empty cells are no captions.

    Args:
        cells: one of each column.
        weights: of the columns; empty: all are 1.
    """
    found: list[object] = []
    for cell, weight in zip(cells, weights or [1.0] * len(cells), strict=True):
        if isinstance(cell, list):
            found.extend(_weighing(one, weight) for one in cell)
        elif len(cells) == 1 or (cell is not None and cell != ""):
            found.append(_weighing(cell, weight))
    return tuple(found)


def _weighing(caption: object, weight: float) -> object:
    return WeightedCaption(caption, weight) if isinstance(caption, str) and weight != 1.0 else caption


def findings_of_names(names: Sequence[str], columns: Columns, where: str) -> list[DataError]:
    """Return what is wrong with a table's columns by their names: one that is not there, or two of one name."""
    found, shown = [], ", ".join(names)[:500] or "none"
    if any(name not in names for name in columns.names):
        found.append(
            DataError(
                "The captions table lacks a column.",
                expected=f"columns {', '.join(columns.names)}",
                found=f"columns {shown}",
                where=where,
                fix="set image_column and caption_column (of a table: caption_columns) of this source",
            )
        )
    found += [
        DataError(
            "The captions table has several columns of one name.",
            expected=f"one column {name}",
            found=f"columns {shown}",
            where=where,
            fix="rename or drop the others",
        )
        for name in columns.names
        if names.count(name) > 1
    ]
    return found


def refuse(findings: Sequence[DataError], where: str) -> None:
    """Refuse a table with everything that is wrong with it; one without findings passes.

    Raises:
        DataError: there are some.
    """
    if len(findings) > 1:
        raise DataError(
            f"The captions table cannot be used, for {len(findings)} reasons.",
            found="; ".join(f"{one.what} {one.found} (expected: {one.expected})" for one in findings),
            where=where,
            fix="; ".join(dict.fromkeys(one.fix for one in findings if one.fix)),
        )
    for one in findings:
        raise one
