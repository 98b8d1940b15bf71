"""Removing what was found to be garbage: looked at once more, and under the lock of a work folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from softalign.errors import TrainingError
from softalign.processes.locking import exclusive
from softalign.store.files import open_filesystem
from softalign.store.reaching import reaching
from softalign.store.store import Store
from softalign.upkeep.garbage import ENCODED, WORK, Garbage, is_worked_on, unneeded_shared
from softalign.upkeep.listing import StoredFile, list_stored

BATCH = 500
"""Files that one request removes; S3 takes 1000 at most."""


def remove_garbage(found: tuple[Garbage, ...], store: Store, changed_before: float) -> tuple[Garbage, ...]:
    """Remove things and return those that are gone; what has changed meanwhile, or is held by a run, stays.

    Which shared encodings are needed, and whether a run is at work, is looked up again right before the first of them
    goes, and indexes go before what they are of, so that nobody reuses it. What remains: a run that began to use an old
    one before its index went, and says so (by a lease, or a set) only after that look-up, loses it.

    Raises:
        StorageUnavailableError: the store did not answer; run it again.
        IntegrityError: the list of an encoded set cannot be read, so no shared encoding was removed.
        ConfigError: the store refused to remove.
    """
    shared = [one for one in found if one.place.startswith(f"{ENCODED}/")]
    gone = [one for one in found if one not in shared and _is_removed(one, store, changed_before)]
    if shared:
        unneeded = unneeded_shared(store)
        shared = [one for one in shared if _is_hidden(one) or one.place in unneeded]
        shared.sort(key=lambda one: not one.place.endswith(".json"))
        gone += [one for one in shared if _is_removed(one, store, changed_before)]
    return tuple(sorted(gone, key=lambda one: one.place))


def _is_hidden(one: Garbage) -> bool:
    return one.place.rpartition("/")[2].startswith(".")


def _is_removed(one: Garbage, store: Store, changed_before: float) -> bool:
    if one.place.startswith(f"{WORK}/"):
        return _remove_work(one, store, changed_before)
    return _remove_unchanged(one, store, changed_before)


def _remove_work(one: Garbage, store: Store, changed_before: float) -> bool:
    path = Path(store.uri) / one.place
    if not path.is_dir():
        return not is_worked_on(store, one.place) and _remove_unchanged(one, store, changed_before)
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
