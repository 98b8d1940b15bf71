"""A short digest of a source's content, which lies outside the store and may change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from softalign.artifacts import digest_of
from softalign.config.captions import GENEVAL
from softalign.config.curation import CocoSource, FilterConfig, ShapesSource, Source
from softalign.data.curation.tables import read_table
from softalign.store.files import is_local, open_filesystem, read_bytes
from softalign.store.reaching import reaching


def source_fingerprint(source: Source) -> str:
    """Return a digest of a source's present content: its captions table, and its images' names and sizes.

    Raises:
        MissingInputError: the captions table is not there.
        ConfigError: access was refused.
        StorageUnavailableError: the store did not answer.
    """
    if isinstance(source, ShapesSource):
        return ""
    table_uri = source.annotations_uri if isinstance(source, CocoSource) else source.table_uri
    table = hashlib.sha256(read_table(table_uri)).hexdigest()
    return digest_of([table, _names_and_sizes(source.images_uri)])


def evaluation_fingerprints(filters: FilterConfig) -> dict[str, str]:
    """Return digests of the evaluation sets that filters name, by field: prompts' files, and images' names and sizes.

    Raises:
        MissingInputError: a file of prompts is not there.
        StorageUnavailableError: a store did not answer.
    """
    found = {}
    if uris := [name for name in filters.captions.exclude_prompts if name != GENEVAL]:
        contents = [hashlib.sha256(read_bytes(uri)).hexdigest() for uri in uris]
        found["curation.filters.captions.exclude_prompts"] = digest_of(contents)
    if filters.exclude_images:
        listings = [_names_and_sizes(uri) for uri in filters.exclude_images]
        found["curation.filters.exclude_images"] = digest_of(listings)
    return found


def _names_and_sizes(uri: str) -> list[tuple[str, int | None]]:
    filesystem, path = open_filesystem(uri)
    with reaching(uri):
        if is_local(uri):
            images = dict(_local_files(path))
        else:
            found = filesystem.find(path, detail=True) if filesystem.exists(path) else {}
            images = {name: entry.get("size") for name, entry in found.items()}
    return sorted((name.removeprefix(path), size) for name, size in images.items())


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
