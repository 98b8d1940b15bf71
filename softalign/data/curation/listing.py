"""The files below a folder, local or not, with their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator

from softalign.store.files import is_local, open_filesystem
from softalign.store.reaching import reaching
from softalign.store.store import DEFAULT_STORE


def files_below(uri: str) -> dict[str, int | None]:
    """Return the sizes of all files below a folder by their relative names; none where there is no folder.

    A link that leads nowhere has no size (None). A store of this library below it is left out: it is no source, and
    changes with every run.

    Raises:
        ConfigError: access was refused.
        StorageUnavailableError: the store did not answer.
    """
    return {name.lstrip("/"): size for name, size in sizes_below(uri).items()}


def sizes_below(uri: str) -> dict[str, int | None]:
    """Return what ``files_below`` does, each name as it follows the folder's."""
    filesystem, path = open_filesystem(uri)
    with reaching(uri):
        if is_local(uri):
            files = dict(_local_files(path))
        else:
            filesystem.invalidate_cache(path)  # what this process listed before may have changed
            found = filesystem.find(path, detail=True) if filesystem.exists(path) else {}
            files = {name: entry.get("size") for name, entry in found.items()}
    names = ((name.removeprefix(path), size) for name, size in files.items())
    return {name: size for name, size in names if f"/{DEFAULT_STORE}/" not in name}


def _local_files(root: str) -> Iterator[tuple[str, int | None]]:
    """Yield paths and sizes below a folder; a link that leads nowhere has no size, one in a circle is not followed."""
    walked: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in walked:
            subfolders.clear()
            continue
        walked.add((status.st_dev, status.st_ino))
        for name in names:
            path = os.path.join(folder, name)
            try:
                yield path, os.stat(path).st_size
            except OSError:
                yield path, None
