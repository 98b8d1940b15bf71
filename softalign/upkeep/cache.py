"""What this machine keeps in its cache, and forgetting what can be fetched again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from softalign.artifacts import Frozen
from softalign.errors import TrainingError
from softalign.processes.locking import exclusive
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


WORK = "work"
SHARED_WORK = ("requests", "usage", "turns")
"""Folders of a stage's work that are of all its keys: no run holds them themselves."""
logger = logging.getLogger(__name__)


class CacheRow(Frozen):
    """One kind of thing in the cache."""

    kind: str
    what: str
    num_files: int
    size_bytes: int
    path: str

    def to_name(self) -> str:
        """Return what it is called."""
        return self.kind


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
    """Remove what can be fetched again, and with ``is_all`` everything; return what is gone.

    Work that a run holds stays, and is logged.
    """
    before = {row.kind: row for row in cache_rows() if is_all or row.kind not in KEPT}
    for row in before.values():
        if row.kind == WORK:
            _clear_work(Path(row.path))
        else:
            shutil.rmtree(Path(row.path))
    after = {row.kind: row for row in cache_rows()}
    return tuple(gone for row in before.values() if (gone := _gone(row, after.get(row.kind))).num_files)


def _gone(before: CacheRow, after: CacheRow | None) -> CacheRow:
    if after is None:
        return before
    return before.model_copy(
        update={
            "num_files": max(0, before.num_files - after.num_files),
            "size_bytes": max(0, before.size_bytes - after.size_bytes),
        }
    )


def _clear_work(root: Path) -> None:
    """Remove ``work/STORE/STAGE/KEY`` under its lock; requests and the like of a stage only where none is held."""
    for stage in sorted(path for path in root.glob("*/*") if path.is_dir()):
        held = [path for path in sorted(stage.iterdir()) if path.is_dir() and not _is_cleared(path)]
        for path in held:
            logger.warning("a run works in %s: it stays", path)
        if not held:
            shutil.rmtree(stage)
    for store in root.iterdir():
        if store.is_dir() and not any(store.iterdir()):
            store.rmdir()
    if not any(root.iterdir()):
        root.rmdir()


def _is_cleared(folder: Path) -> bool:
    """Remove a work folder unless a run holds it; what belongs to all runs of a stage goes with the stage."""
    if folder.name in SHARED_WORK:
        return True
    try:
        with exclusive(folder, timeout_s=0.0):
            shutil.rmtree(folder)
    except TrainingError:
        return False
    return True
