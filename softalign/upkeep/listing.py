"""Every file below a store or folder with its size and last change, in one listing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from softalign.store.files import is_local, local_path_of, open_filesystem
from softalign.store.reaching import reaching
from softalign.store.written import written_at


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file: its path below the root, with slashes, its size, and when it was changed (Unix seconds)."""

    path: str
    size_bytes: int
    changed_at: float


def list_stored(uri: str, under: str = "") -> list[StoredFile]:
    """Return the files below a URI, sorted by path; none where there is no such place.

    Links are listed as themselves and not followed.

    Args:
        uri: a folder or object store.
        under: of them only those in this folder.

    Raises:
        StorageUnavailableError: the place did not answer.
        ConfigError: it refused access.
    """
    found = _list_local(local_path_of(uri), under) if is_local(uri) else _list_remote(uri, under)
    return sorted(found, key=lambda file: file.path)


def _list_local(root: Path, under: str) -> Iterable[StoredFile]:
    for folder, _, names in os.walk(root / under):
        for name in names:
            path = Path(folder) / name
            try:
                status = path.lstat()
            except FileNotFoundError:  # a run is at work there
                continue
            yield StoredFile(path.relative_to(root).as_posix(), status.st_size, status.st_mtime)


def _list_remote(uri: str, under: str) -> Iterable[StoredFile]:
    filesystem, root = open_filesystem(uri)
    with reaching(uri):
        filesystem.invalidate_cache()
        found = filesystem.find(f"{root}/{under}".rstrip("/"), detail=True)
    for path, info in found.items():
        yield StoredFile(str(path).removeprefix(f"{root}/"), int(info["size"] or 0), written_at(info))
