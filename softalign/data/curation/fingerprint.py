"""A short digest of a source's content, which lies outside the store and may change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from softalign.artifacts import canonical_json, digest_of
from softalign.config.captions import GENEVAL
from softalign.config.curation import (
    CocoSource,
    FileSource,
    FilterConfig,
    FolderSource,
    HFSource,
    ParquetSource,
    ShapesSource,
    Source,
    TableSource,
    WebDatasetSource,
)
from softalign.data.curation.caption_files import TEXT_SUFFIXES
from softalign.data.curation.folder import AT_ONCE, visible_files
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.listing import sizes_below
from softalign.data.curation.names import is_url
from softalign.data.curation.parts import SourceFile
from softalign.data.curation.rejections import ItemError
from softalign.data.curation.saved_dataset import saved_files
from softalign.data.curation.scratch import SortedFiles
from softalign.data.curation.table import is_parquet, is_table, table_files
from softalign.data.curation.tables import read_table
from softalign.data.curation.webdataset import webdataset_files
from softalign.store.files import read_bytes
from softalign.store.reaching import reaching
from softalign.store.read_ahead import map_ahead

MAX_HASHED_BYTES = 64 * 2**20
"""Larger files of tables and archives go by size and by what their store says of their last change: hashing terabytes
of images would take longer than reading them."""
NUM_READERS = 16
_CHUNK_BYTES = 1 << 20
_FILES_A_PIECE = 1000


def source_fingerprint(source: Source) -> str:
    """Return a digest of a source's present content: its captions, and its images' names and sizes.

    Raises:
        MissingInputError: the captions are not there.
        ConfigError: access was refused.
        StorageUnavailableError: the store did not answer.
    """
    return "" if isinstance(source, ShapesSource) else _digest_of_parts(_found(source))


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
        found["curation.filters.exclude_images"] = _digest_of_parts([_images(uri) for uri in filters.exclude_images])
    return found


def _found(source: FileSource) -> list[Any]:
    """Return what is there of a source: its captions by digest, its images by name and size; these one by one."""
    match source:
        case CocoSource():
            table = hashlib.sha256(read_table(source.annotations_uri, source.http)).hexdigest()
            return [table, _images(source.images_uri)]
        case ParquetSource():
            digests = [_content(file, None) for file in table_files(source.table_uri, is_parquet, source.http)]
            return [digests[0] if len(digests) == 1 else digests, _images(source.images_uri)]
        case TableSource():
            images = _images(source.images_uri) if source.images_uri else iter(())
            return [_contents(table_files(source.table_uri, is_table, source.http)), images]
        case FolderSource():
            files = visible_files(source.images_uri)
            return [_captions(source.images_uri, files), iter(files)]
        case WebDatasetSource():
            return _contents(webdataset_files(source.shards_uri, source.http))
        case HFSource():
            return _contents(saved_files(source.dataset_uri, source.http))


def _digest_of_parts(parts: list[Any]) -> str:
    """Return the ``digest_of`` a list in which iterators stand for lists, without holding these."""
    digest = hashlib.sha256(b"[")
    for index, part in enumerate(parts):
        digest.update(b"," * (index > 0))
        for piece in _pieces(part) if isinstance(part, Iterator) else [canonical_json(part)]:
            digest.update(piece)
    digest.update(b"]")
    return digest.hexdigest()


def _pieces(items: Iterator[Any]) -> Iterator[bytes]:
    before = b"["
    while some := list(islice(items, _FILES_A_PIECE)):
        yield before + canonical_json(some)[1:-1]
        before = b","
    yield b"]" if before == b"," else b"[]"


def _images(uri: str) -> Iterator[tuple[str, int | None]]:
    return iter(()) if is_url(uri) else iter(SortedFiles(sizes_below(uri)))  # HTTP knows no folders


def _captions(uri: str, files: Iterable[tuple[str, int | None]]) -> Iterator[tuple[str, str]]:
    """Yield the captions files among those below a folder, with digests of their content."""
    names = (name for name, _ in files if name.lower().endswith(TEXT_SUFFIXES))
    return map_ahead(lambda name: (name, _digest_in(uri, name)), names, NUM_READERS, at_once=AT_ONCE)


def _digest_in(uri: str, name: str) -> str:
    try:
        return hashlib.sha256(ImageFolder(uri).read(name)).hexdigest()
    except ItemError as error:  # which costs its image, no more
        return error.flaw.reason


def _contents(files: tuple[SourceFile, ...]) -> list[Any]:
    return [(file.name, _content(file, MAX_HASHED_BYTES)) for file in files]


def _content(file: SourceFile, max_bytes: int | None) -> str:
    """Return the sha256 hex digest of a file's bytes, or of a large file's size and last change."""
    with reaching(file.uri):
        if max_bytes is not None:
            entry = file.filesystem.info(file.path)
            if (entry.get("size") or 0) > max_bytes:
                changed = next((entry[name] for name in ("ETag", "mtime", "LastModified") if entry.get(name)), "")
                return digest_of([entry["size"], str(changed)])
        digest = hashlib.sha256()
        with file.filesystem.open(file.path, "rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()
