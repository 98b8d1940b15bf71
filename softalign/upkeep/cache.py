"""What this machine keeps in its cache, and forgetting what can be fetched again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from softalign.artifacts import Frozen
from softalign.stages.table import STAGES
from softalign.store.files import cache_dir
from softalign.upkeep.listing import list_stored

KINDS: dict[str, str] = {
    **{str(row.name): f"copies of what {row.name} published in remote stores" for row in STAGES},
    "encoded": "copies of shared encodings",
    "adapters": "adapters that were loaded by their address",
    "models": "pulled versions, which work offline",
    "work": "unfinished work for remote stores",
}
"""The folders of the cache, and what lies there."""
KEPT = ("models", "work")
"""What only ``--all`` forgets: without a network the first cannot be fetched again, and the second is the only one."""


class CacheRow(Frozen):
    """One kind of thing in the cache."""

    kind: str
    what: str
    num_files: int
    size_bytes: int
    path: str


def cache_rows() -> tuple[CacheRow, ...]:
    """Return what the cache holds, by kind."""
    return tuple(_rows())


def _rows() -> Iterator[CacheRow]:
    root = cache_dir()
    for kind, what in KINDS.items():
        files = list_stored(str(root), kind)
        if files:
            size_bytes = sum(file.size_bytes for file in files)
            yield CacheRow(kind=kind, what=what, num_files=len(files), size_bytes=size_bytes, path=str(root / kind))


def clear_cache(*, is_all: bool) -> tuple[CacheRow, ...]:
    """Remove what can be fetched again, and with ``is_all`` everything; return what is gone."""
    gone = tuple(row for row in cache_rows() if is_all or row.kind not in KEPT)
    for row in gone:
        shutil.rmtree(Path(row.path))
    return gone
