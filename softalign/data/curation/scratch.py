"""Sorting and grouping what a source lists on the disk: its names and captions may be larger than memory.

SQLite keeps a database without a name in a file that is gone with the process, in its folder for temporary files
(``SQLITE_TMPDIR``, ``TMPDIR``, else ``/var/tmp``), and sorts there too. So a killed run leaves nothing behind, and what
fits the cache touches no disk.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from softalign.errors import StorageUnavailableError

_CACHE_KIB = 1024
"""Of the database; what is sorted at a time in memory is as much."""
_ROWS_AT_A_TIME = 200


class Scratch:
    """A database of this process alone; it goes when nothing refers to it any longer.

    Args:
        tables: statements that make its tables.
    """

    def __init__(self, *tables: str) -> None:
        self._waiting: dict[str, list[Sequence[object]]] = {}
        with _on_disk():
            self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._db.close)
            for setting in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", f"cache_size=-{_CACHE_KIB}"):
                self._db.execute(f"PRAGMA {setting}")
        self.do("BEGIN", *tables)

    def do(self, *statements: str) -> None:
        """Execute statements without values.

        Raises:
            StorageUnavailableError: there is no room for temporary files.
        """
        self._add_waiting()
        with _on_disk():
            for statement in statements:
                self._db.execute(statement)

    def add(self, statement: str, values: Sequence[object]) -> None:
        """Insert a row, at the latest before anything else is asked for; for errors see ``do``."""
        waiting = self._waiting.setdefault(statement, [])
        waiting.append(values)
        if len(waiting) == _ROWS_AT_A_TIME:
            self._add_waiting()

    def _add_waiting(self) -> None:
        with _on_disk():
            for statement, rows in self._waiting.items():
                self._db.executemany(statement, rows)
        self._waiting.clear()

    def rows(self, query: str) -> Iterator[Any]:
        """Yield what a query finds; for errors see ``do``."""
        self._add_waiting()
        with _on_disk():
            for row in self._db.execute(query):  # noqa: UP028  (it would close its cursor, maybe late)
                yield row

    def number(self, query: str) -> int:
        """Return the one number that a query finds; for errors see ``do``."""
        return int(next(self.rows(query))[0])


class SortedFiles:
    """Files with their sizes by name: each name once, with the last of its sizes; may be gone through several times.

    Args:
        files: in any order.

    Raises:
        StorageUnavailableError: there is no room for temporary files.
    """

    def __init__(self, files: Iterable[tuple[str, int | None]]) -> None:
        self._scratch = Scratch("CREATE TABLE listed(name BLOB, size INTEGER)")
        for name, size in files:
            self._scratch.add("INSERT INTO listed VALUES(?, ?)", (to_key(name), size))
        self._scratch.do(
            "CREATE TABLE files AS SELECT name, size, max(rowid) FROM listed GROUP BY name ORDER BY name",
            "DROP TABLE listed",
        )

    def __iter__(self) -> Iterator[tuple[str, int | None]]:
        for name, size in self._scratch.rows("SELECT name, size FROM files ORDER BY rowid"):
            yield of_key(name), size


class Grouped:
    """Values under names, which come in the order of their first values, and values in the order in which they came.

    Nothing can be added once anything was asked for.
    """

    def __init__(self) -> None:
        self._scratch = Scratch("CREATE TABLE added(name BLOB, value BLOB)")
        self._is_grouped = False

    def add(self, name: str, value: bytes) -> None:
        """Add a value under a name.

        Raises:
            StorageUnavailableError: there is no room for temporary files.
        """
        self._scratch.add("INSERT INTO added VALUES(?, ?)", (to_key(name), value))

    def __len__(self) -> int:
        return self._grouped().number("SELECT count(*) FROM grouped WHERE place = first")

    def __iter__(self) -> Iterator[str]:
        for (name,) in self._grouped().rows("SELECT name FROM grouped WHERE place = first ORDER BY rowid"):
            yield of_key(name)

    def items(self) -> Iterator[tuple[str, list[bytes]]]:
        """Yield each name with its values; for errors see ``add``."""
        rows = self._grouped().rows("SELECT first, name, value FROM grouped ORDER BY rowid")
        for _, group in groupby(rows, lambda row: row[0]):
            found = list(group)
            yield of_key(found[0][1]), [value for _, _, value in found]

    def _grouped(self) -> Scratch:
        if not self._is_grouped:
            self._scratch.do(
                "CREATE TABLE grouped AS SELECT rowid AS place, min(rowid) OVER (PARTITION BY name) AS first, name, "
                "value FROM added ORDER BY first, place",
                "DROP TABLE added",
            )
            self._is_grouped = True
        return self._scratch


def to_key(name: str) -> bytes:
    """Return a name as bytes that are ordered as names are; halves of characters are kept."""
    return name.encode("utf-8", "surrogatepass")


def of_key(key: bytes) -> str:
    """Return the name that ``to_key`` made a key of."""
    return key.decode("utf-8", "surrogatepass")


@contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageUnavailableError(
            "What a source lists cannot be sorted on this machine's disk.",
            expected="room for temporary files",
            found=str(error),
            where="the folder for temporary files: SQLITE_TMPDIR, TMPDIR, or /var/tmp",
            fix="make room there, or set SQLITE_TMPDIR to a folder of a larger disk",
        ) from error
