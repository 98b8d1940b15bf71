"""Removing what was found to be garbage: looked at once more, and under the lock of a work folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from softalign.errors import TrainingError
from softalign.processes.locking import exclusive
from softalign.store.files import open_filesystem
from softalign.store.reaching import reaching
from softalign.store.store import Store
from softalign.upkeep.garbage import WORK, Garbage
from softalign.upkeep.listing import StoredFile, list_stored

BATCH = 500
"""Files that one request removes; S3 takes 1000 at most."""


def remove_garbage(found: tuple[Garbage, ...], store: Store, changed_before: float) -> tuple[Garbage, ...]:
    """Remove things and return those that are gone; what has changed meanwhile, or is held by a run, stays.

    Raises:
        StorageUnavailableError: the store did not answer; run it again.
        ConfigError: the store refused to remove.
    """
    return tuple(one for one in found if _is_removed(one, store, changed_before))


def _is_removed(one: Garbage, store: Store, changed_before: float) -> bool:
    if one.place.startswith(f"{WORK}/"):
        return _remove_work(one, store, changed_before)
    return _remove_unchanged(one, store, changed_before)


def _remove_work(one: Garbage, store: Store, changed_before: float) -> bool:
    path = Path(store.uri) / one.place
    if not path.is_dir():
        return _remove_unchanged(one, store, changed_before)
    try:
        with exclusive(path, timeout_s=0.0):
            return _remove_unchanged(one, store, changed_before)
    except TrainingError:
        return False


def _remove_unchanged(one: Garbage, store: Store, changed_before: float) -> bool:
    files = _files_of(one, store)
    if any(file.changed_at >= changed_before for file in files if not file.path.endswith("/.lock")):
        return False
    if store.is_local:
        path = Path(store.uri) / one.place
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        return True
    filesystem, root = open_filesystem(store.uri)
    with reaching(store.uri):
        for start in range(0, len(files), BATCH):
            filesystem.rm([f"{root}/{file.path}" for file in files[start : start + BATCH]])
    return True


def _files_of(one: Garbage, store: Store) -> list[StoredFile]:
    below = list_stored(store.uri, one.place)
    if below:
        return below
    folder = one.place.rpartition("/")[0]
    return [file for file in list_stored(store.uri, folder) if file.path == one.place]
