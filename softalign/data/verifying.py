"""Whether a published dataset, or set of encodings, still is what was published: every file against its sha256.

What is read is the store itself: copies in the cache say nothing of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from softalign.artifacts import DatasetManifest, EncodedManifest, FileEntry, Frozen
from softalign.data.encoding.quarantine import repair
from softalign.data.versions.finding import find_dataset
from softalign.errors import IntegrityError, MissingInputError, os_error_text
from softalign.store.files import RESTORE, is_local, local_path_of, open_filesystem, read_bytes, state_text
from softalign.store.reaching import reaching
from softalign.store.read_ahead import map_ahead
from softalign.store.store import Store
from softalign.store.traffic import note_read

NUM_READERS = 4
_CHUNK_BYTES = 8 << 20
_ENCODED = re.compile(r"(.+)/encode/([0-9a-f]{64})(/.*)?")
_POOLS = ("latents.json", "texts.json")
"""Of a set of encodings: lists of the files that it shares with others."""


class Flaw(Frozen):
    """A file that is not what was published: both states as size and sha256, and what mends it."""

    uri: str
    expected: str
    found: str
    fix: str


class Verified(Frozen):
    """What came of it; ``num_files`` and ``total_bytes`` are as published."""

    name: str
    stage_key: str
    digest: str
    uri: str
    num_files: int
    total_bytes: int
    flaws: tuple[Flaw, ...]

    @property
    def is_sound(self) -> bool:
        """Whether all files are what was published."""
        return not self.flaws

    def to_text(self) -> str:
        """Return what was found, for people."""
        what = f"{self.name} {self.stage_key[:16]}: {self.num_files:,} files, {self.total_bytes / 1e6:,.1f} MB"
        if self.is_sound:
            return f"{what}, all as published"
        lines = [
            f"{one.uri}\n  expected: {one.expected}\n  found: {one.found}\n  to do: {one.fix}" for one in self.flaws
        ]
        return "\n".join([*lines, f"{what}; {len(self.flaws):,} damaged or missing"])


@dataclass(frozen=True, slots=True)
class Published:
    """A record and the store that it lies in; None: a copy of its folder, in none."""

    record: DatasetManifest | EncodedManifest
    store: Store | None


def find_published(reference: str, store: Store) -> Published:
    """Return the dataset that is meant (see ``find_dataset``), or the set of encodings in a folder of a store.

    Raises:
        MissingInputError: there is none.
        ConfigError: several are meant.
        IntegrityError: its record is damaged.
        StorageUnavailableError: the store did not answer.
    """
    match = _ENCODED.fullmatch(reference.rstrip("/"))
    if match is None:
        dataset = find_dataset(reference, store)
        root, _, _ = dataset.uri.rpartition(f"/{dataset.stage}/{dataset.stage_key}")
        return Published(dataset, Store(root) if root else None)
    of_it = Store(match[1])
    encoded = of_it.find(EncodedManifest, match[2])
    if encoded is None:
        fix = "name the folder that `softalign encode` printed"
        raise MissingInputError("There is no published set of encodings.", where=reference, fix=fix)
    return Published(encoded, of_it)


def verify(published: Published, store: Store) -> Verified:
    """Read all files of a record in the store, and those it shares, and return which are not what was published.

    Args:
        published: what is verified.
        store: any; it reads what lies in none.

    Raises:
        StorageUnavailableError: the store did not answer.
        ConfigError: it refused access.
    """
    record, root = published.record, published.store
    try:
        entries = (root or store).files(record)
    except IntegrityError as error:
        fix = _fix(published, ())
        return _verified(published, (), [Flaw(uri=error.where, expected=error.expected, found=error.found, fix=fix)])
    damaged = dict(_damaged(record.uri, entries))
    fix = _fix(published, tuple(entry.path for entry in damaged))
    flaws = [_flaw(record.uri, entry, found, fix) for entry, found in damaged.items()]
    if root is None or not isinstance(record, EncodedManifest):
        return _verified(published, entries, flaws)
    pools = [one for one in entries if one.path in _POOLS and one not in damaged]
    shared = tuple(dict.fromkeys(entry for one in pools for entry in _shared(f"{record.uri}/{one.path}")))
    for entry, found in _damaged(root.uri, shared):
        flaws.append(_flaw(root.uri, entry, found, root.damaged(entry, found).fix))
    return _verified(published, (*entries, *shared), flaws)


def _verified(published: Published, entries: Sequence[FileEntry], flaws: Sequence[Flaw]) -> Verified:
    record = published.record
    return Verified(
        name=record.name,
        stage_key=record.stage_key,
        digest=record.digest,
        uri=record.uri,
        num_files=len(entries),
        total_bytes=sum(entry.size_bytes for entry in entries),
        flaws=tuple(flaws),
    )


def _shared(uri: str) -> list[FileEntry]:
    return [FileEntry.model_validate(shard["file"]) for shard in json.loads(read_bytes(uri))]


def _flaw(root: str, entry: FileEntry, found: str, fix: str) -> Flaw:
    return Flaw(uri=f"{root}/{entry.path}", expected=state_text(entry.size_bytes, entry.sha256), found=found, fix=fix)


def _damaged(root: str, entries: Sequence[FileEntry]) -> Iterator[tuple[FileEntry, str]]:
    """Yield the files that are not what was published, and what is there instead."""
    founds = map_ahead(lambda entry: _found(f"{root}/{entry.path}"), entries, NUM_READERS)
    for entry, found in zip(entries, founds, strict=True):
        if found != state_text(entry.size_bytes, entry.sha256):
            yield entry, found


def _found(uri: str) -> str:
    if is_local(uri):
        try:
            with local_path_of(uri).open("rb") as file:
                return _state_of(file)
        except FileNotFoundError:
            return "no file"
        except OSError as error:  # a disk's fault is the file's
            return os_error_text(error)
    filesystem, path = open_filesystem(uri)
    try:
        with reaching(uri):
            filesystem.invalidate_cache()
            with filesystem.open(path, "rb", block_size=_CHUNK_BYTES) as stream:
                return _state_of(stream)
    except MissingInputError:
        return "no file"


def _state_of(file: IO[bytes]) -> str:
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    note_read(size)
    return state_text(size, digest.hexdigest())


def _fix(published: Published, damaged: Sequence[str]) -> str:
    """Return what mends some files of a record."""
    record, root = published.record, published.store
    if root is None:
        return "copy it back from where this folder was copied"
    if isinstance(record, EncodedManifest):
        return RESTORE
    num_shards = len({path.partition(".")[0] for path in damaged if path.startswith("shard-")})
    largest = record.num_samples / max(record.num_shards - 1, 1)  # all but the last are as large as one another
    num_lost = math.ceil(num_shards * largest) if num_shards else record.num_samples
    return repair(record, root, min(num_lost, record.num_samples))
