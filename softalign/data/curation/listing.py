"""The files below a folder, local or not, with their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator

from softalign.store.files import is_local, open_filesystem
from softalign.store.reaching import reaching
from softalign.store.store import DEFAULT_STORE


def files_below(uri: str) -> Iterator[tuple[str, int | None]]:
    """Yield all files below a folder by their relative names, in no order, with their sizes; none without a folder.

    A link that leads nowhere has no size (None). A store of this library below it is left out: it is no source, and
    changes with every run.

    Raises:
        ConfigError: access was refused.
        StorageUnavailableError: the store did not answer.
    """
    for name, size in sizes_below(uri):
        yield name.lstrip("/"), size


def sizes_below(uri: str) -> Iterator[tuple[str, int | None]]:
    """Yield what ``files_below`` does, each name as it follows the folder's."""
    path = open_filesystem(uri)[1]
    with reaching(uri):
        for found, size in _local_files(path) if is_local(uri) else _remote_files(uri):
            name = found.removeprefix(path)
            if f"/{DEFAULT_STORE}/" not in name:
                yield name, size


def _remote_files(uri: str) -> Iterator[tuple[str, int | None]]:
    filesystem, path = open_filesystem(uri)
    filesystem.invalidate_cache(path)  # what this process listed before may have changed
    if filesystem.exists(path):
        for name, entry in filesystem.find(path, detail=True).items():
            yield name, entry.get("size")


def _local_files(root: str) -> Iterator[tuple[str, int | None]]:
    """Yield paths and sizes below a folder; a link that leads nowhere has no size, one in a circle is not followed.

    Folders that cannot be opened have no files. One that is reached by several ways is walked by the first, as
    ``os.walk`` goes, which would hold the names of each folder's files at once.
    """
    walked, waiting = set[tuple[int, int]](), [root]
    while waiting:
        folder, subfolders = waiting.pop(), list[str]()
        try:
            entries = os.scandir(folder)
        except OSError:
            continue
        with entries:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in walked:
                continue
            walked.add((status.st_dev, status.st_ino))
            for entry in entries:
                if _is_folder(entry):
                    subfolders.append(entry.path)
                else:
                    yield entry.path, _size_of(entry.path)
        waiting.extend(reversed(subfolders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _size_of(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
