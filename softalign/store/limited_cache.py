"""Copies of remote files in a cache of limited size, which the processes of a machine share.

A process holds each file that it was given for as long as it lives, so that what is open is never removed; of the rest
the longest unused goes first. Where what is held leaves no room, a file is not admitted, and its reader asks the store
for the parts that it needs: to fetch a whole file for one row, and lose it before the next, would cost more.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from softalign.artifacts import FileEntry

_IN_USE = ".in-use"
_LITTER_S = 3600.0
"""An unfinished file that is older was left by a process that was killed."""


class LimitedCache:
    """A folder of files named by their sha256, of at most some bytes.

    Args:
        folder: made if absent.
        limit: bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        (folder / _IN_USE).mkdir(parents=True, exist_ok=True)

    def admit(self, entry: FileEntry) -> Path | None:
        """Return where a file is, or is to be put, held by this process from now on; None where it has no room."""
        path, holder = self._folder / entry.sha256, _holder(self._folder, os.getpid())
        with self._locked("room"):
            if entry.sha256 not in holder.held:
                if not self._make_room(entry):
                    return None
                holder.hold(entry)
            with suppress(FileNotFoundError):
                os.utime(path)
        return path

    @contextmanager
    def fetching(self, entry: FileEntry) -> Iterator[None]:
        """Let one process at a time fetch a file; the others find it."""
        with self._locked(f"fetch-{entry.sha256[0]}"):
            yield

    def _make_room(self, entry: FileEntry) -> bool:
        """Remove what nobody holds until a file fits, and what is over the limit; return whether it does."""
        held = self._held()
        wanted = held | {entry.sha256: entry.size_bytes}
        is_fitting = sum(wanted.values()) <= self._limit
        kept = wanted if is_fitting else held
        free = self._limit - sum(kept.values())
        there = {path: path.stat() for path in self._folder.iterdir() if path.is_file()}
        for path in sorted(there, key=lambda path: -there[path].st_mtime):
            is_unfinished = path.name.startswith(".")  # counted as what its process holds
            if path.name in kept or (is_unfinished and time.time() - there[path].st_mtime < _LITTER_S):
                continue
            if is_unfinished or there[path].st_size > free:
                path.unlink(missing_ok=True)
            else:
                free -= there[path].st_size
        return is_fitting

    def _held(self) -> dict[str, int]:
        """Return the sizes of files that living processes hold, by name; what dead ones left behind is removed."""
        held: dict[str, int] = {}
        for listing in (self._folder / _IN_USE).glob("*.held"):
            lock = FileLock(listing.with_suffix(".lock"), fallback_to_soft=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                lines = (line.split() for line in listing.read_text(encoding="utf-8").splitlines())
                held |= {name: int(size) for name, size in lines}
            else:
                listing.unlink(missing_ok=True)
                lock.release()
                listing.with_suffix(".lock").unlink(missing_ok=True)
        return held

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with FileLock(self._folder / _IN_USE / name, fallback_to_soft=False):
            yield


class _Holder:
    """What this process holds: a list that the others read, as long as the lock beside it is taken."""

    def __init__(self, folder: Path) -> None:
        self.held: set[str] = set()
        self._listing = folder / _IN_USE / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.held"
        # of the process, whatever thread took it
        self._lock = FileLock(self._listing.with_suffix(".lock"), thread_local=False, fallback_to_soft=False)
        self._lock.acquire(timeout=0)

    def hold(self, entry: FileEntry) -> None:
        """Add a file to the list."""
        with self._listing.open("a", encoding="utf-8") as file:
            file.write(f"{entry.sha256} {entry.size_bytes}\n")
        self.held.add(entry.sha256)


@cache
def _holder(folder: Path, _process: int) -> _Holder:
    """Return the list of this process, whose id tells it from one that it was forked from."""
    return _Holder(folder)
