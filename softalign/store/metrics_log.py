"""Reading ``metrics.jsonl``, the log of a training run: a JSON object a line, of a step or of a validation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softalign.errors import DataError

SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """One row.

    Attributes:
        split: ``train`` or ``val``.
        step: updates so far.
        samples_seen: images so far, the x axis of every curve.
        values: the other finite numbers by name, in their order; flags, texts and what was not finite are left out.
    """

    split: str
    step: int
    samples_seen: int
    values: Mapping[str, float]


def read_metrics(path: Path) -> tuple[LoggedRow, ...]:
    """Return the rows of a log; none where there is no file.

    Raises:
        DataError: a line is not a JSON object with ``samples_seen``.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return tuple(_row(line, f"{path}:{number}") for number, line in enumerate(lines, start=1))


class GrowingLog:
    """A log that a training is writing: each call of ``new_rows`` returns what came since the last one.

    Args:
        path: the log; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def new_rows(self) -> tuple[LoggedRow, ...]:
        """Return the whole lines since the last call; all of them again where the log was cut or written anew.

        Raises:
            OSError: the log cannot be read.
        """
        with suppress(FileNotFoundError):
            if self._path.stat().st_size < self._offset:
                self._offset = 0
            return self._rows()
        return ()

    def _rows(self) -> tuple[LoggedRow, ...]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        try:
            rows = tuple(_row(line, str(self._path)) for line in whole.decode(errors="replace").splitlines())
        except DataError:  # written anew, and longer by now: the offset is within a line
            self._offset = 0
            return ()
        self._offset += len(whole) + len(newline)
        return rows


def _row(line: str, where: str) -> LoggedRow:
    try:
        row: dict[str, Any] = json.loads(line)
        samples_seen, step = int(row["samples_seen"]), int(row.get("step", 0))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(
            "A line of the training log cannot be read.",
            expected="a JSON object with samples_seen",
            found=line[:SHOWN_CHARS],
            where=where,
            fix="run the train stage again",
        ) from error
    values = {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    return LoggedRow(
        split=str(row.get("split", "train")),
        step=step,
        samples_seen=samples_seen,
        values={name: value for name, value in values.items() if name not in ("samples_seen", "step")},
    )
