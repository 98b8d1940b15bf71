"""A short digest of a source's content, which lies outside the store and may change."""

from __future__ import annotations

import hashlib

from softalign.artifacts import digest_of
from softalign.config.curation import CocoSource, ShapesSource, Source
from softalign.data.curation.tables import read_table
from softalign.store.files import open_filesystem
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
    filesystem, path = open_filesystem(source.images_uri)
    with reaching(source.images_uri):
        found = filesystem.find(path, detail=True) if filesystem.exists(path) else {}
    images = sorted((name.removeprefix(path), entry.get("size")) for name, entry in found.items())
    return digest_of([table, images])
