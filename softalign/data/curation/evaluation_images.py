"""Evaluation images that no dataset shall hold, found by their perceptual hash."""

from __future__ import annotations

from functools import lru_cache
from pathlib import PurePosixPath

from softalign.data.curation.dedup import HammingIndex
from softalign.data.curation.images import EXTENSIONS, UnreadableImageError, inspect_image
from softalign.data.curation.listing import files_below
from softalign.errors import DataError
from softalign.store.files import open_filesystem
from softalign.store.reaching import reaching

_SUFFIXES = {".jpeg", *(f".{extension}" for extension in EXTENSIONS.values())}


@lru_cache(maxsize=8)
def evaluation_hashes(folders: tuple[str, ...], max_distance: int) -> HammingIndex:
    """Return the hashes of all images below some folders; read once in a process, until the cache is cleared.

    Raises:
        DataError: a folder holds no image, or one that cannot be decoded.
        StorageUnavailableError: a store did not answer.
    """
    index = HammingIndex(max_distance)
    for folder in folders:
        filesystem, root = open_filesystem(folder)
        names = [name for name in sorted(dict(files_below(folder))) if PurePosixPath(name).suffix.lower() in _SUFFIXES]
        if not names:
            raise DataError("A folder of evaluation images is empty.", expected="JPEG, PNG or WebP files", where=folder)
        for name in names:
            path = f"{root.rstrip('/')}/{name}"
            with reaching(path):
                data = bytes(filesystem.cat_file(path))
            index.add(_hash_of(data, path))
    return index


def _hash_of(data: bytes, where: str) -> int:
    try:
        return inspect_image(data).perceptual_hash
    except UnreadableImageError as error:
        raise DataError(
            "An evaluation image cannot be decoded.",
            expected="a whole JPEG, PNG or WebP file",
            found=f"{error.flaw.reason} {error.flaw.detail}".strip(),
            where=where,
            fix="repair it, or take it out of the folder",
        ) from error
