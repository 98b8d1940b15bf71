"""What of a store no record refers to and no living run holds.

A publish in progress is safe: its files are younger than the age limit, and what is about to be removed is listed once
more right before. A work folder is removed under its lock, so not under a run. Records, their files, the registry,
leases and recipes are never touched; nor is what nobody here has made.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from softalign.artifacts import Frozen, Record
from softalign.errors import CompatibilityError, IntegrityError, MissingInputError
from softalign.processes.locking import is_held
from softalign.stages.table import STAGES
from softalign.store.files import read_bytes
from softalign.store.probing import PROBE_PREFIX
from softalign.store.store import WORK_FOLDER, Store
from softalign.upkeep.listing import StoredFile, list_stored

RECORDS: dict[str, type[Record]] = {row.name: row.record for row in STAGES}
ENCODED = "encoded"
CHECKPOINTS = "checkpoints"
WORK = WORK_FOLDER
LEASES = "leases"
TURNS = "turns"
BESIDE_WORK = ("requests", "usage")
"""Folders of a stage's work with a file of each key, which no run holds themselves."""
AT_WORK_S = 600.0
"""A lease that was renewed within it is somebody's who works: they are renewed every few seconds."""
INDEXES = ("latents.json", "texts.json")
"""The files of a published encoded set that list the shared files it needs."""


class Garbage(Frozen):
    """One thing that can go: a file or all files below a place.

    Attributes:
        place: below the store.
        why: in words.
        size_bytes: of all its files.
        num_files: how many these are.
        changed_at: when the newest of them was changed, Unix seconds.
    """

    place: str
    why: str
    size_bytes: int
    num_files: int
    changed_at: float

    @classmethod
    def of(cls, place: str, why: str, files: Iterable[StoredFile]) -> Garbage:
        """Sum files up."""
        found = tuple(files)
        return cls(
            place=place,
            why=why,
            size_bytes=sum(file.size_bytes for file in found),
            num_files=len(found),
            changed_at=max((file.changed_at for file in found), default=0.0),
        )


@dataclass(slots=True)
class _Listing:
    """A store's files by the place they are judged as."""

    published: dict[tuple[str, str], list[StoredFile]] = field(default_factory=lambda: defaultdict(list))
    hidden: dict[str, list[StoredFile]] = field(default_factory=lambda: defaultdict(list))
    work: dict[str, list[StoredFile]] = field(default_factory=lambda: defaultdict(list))
    checkpoints: dict[str, list[StoredFile]] = field(default_factory=lambda: defaultdict(list))
    shared: list[StoredFile] = field(default_factory=list)
    probes: list[StoredFile] = field(default_factory=list)
    last_lease_at: float = 0.0


def find_garbage(store: Store, changed_before: float) -> tuple[Garbage, ...]:
    """Return what can go, by place.

    Args:
        store: the store.
        changed_before: Unix seconds; what was changed later stays, whatever it is.

    Raises:
        StorageUnavailableError: the store did not answer.
        ConfigError: it refused access.
        IntegrityError: the list of an encoded set cannot be read, so it is not known which shared files it needs.
    """
    listing = _sorted(list_stored(store.uri))
    found = [
        *_of_stages(listing, store),
        *_of_shared(listing, store),
        *_of_work(listing),
        *_of_checkpoints(listing, store),
    ]
    found += [Garbage.of(place, "an unfinished copy", files) for place, files in listing.hidden.items()]
    found += [Garbage.of(file.path, "left by a check of the store", [file]) for file in listing.probes]
    return tuple(sorted((one for one in found if one.changed_at < changed_before), key=lambda one: one.place))


def unneeded_shared(store: Store) -> frozenset[str]:
    """Return the shared encodings and indexes that no set lists now; none while a run may be at work.

    Raises:
        IntegrityError: the list of an encoded set cannot be read.
    """
    return frozenset(one.place for one in _of_shared(_sorted(list_stored(store.uri)), store))


def _sorted(files: Iterable[StoredFile]) -> _Listing:
    listing = _Listing()
    for file in files:
        parts = file.path.split("/")
        top, name = parts[0], parts[1] if len(parts) > 1 else ""
        if top in RECORDS and name.startswith("."):
            listing.hidden[f"{top}/{name}"].append(file)
        elif top in RECORDS and len(parts) > 2:
            listing.published[top, name].append(file)
        elif top == ENCODED and parts[-1].startswith("."):
            listing.hidden[file.path].append(file)
        elif top == ENCODED:
            listing.shared.append(file)
        elif top == CHECKPOINTS and len(parts) > 2:
            listing.checkpoints[name].append(file)
        elif top == WORK and len(parts) > 2:
            listing.work["/".join(parts[:3])].append(file)
        elif top == LEASES:
            listing.last_lease_at = max(listing.last_lease_at, file.changed_at)
        elif top.startswith(PROBE_PREFIX):
            listing.probes.append(file)
    return listing


def _of_stages(listing: _Listing, store: Store) -> Iterator[Garbage]:
    """Yield prefixes without a record, and what a second writer uploaded beside the one that was recorded."""
    for (stage, key), files in listing.published.items():
        place = f"{stage}/{key}"
        record_type = RECORDS[stage]
        if not any(file.path == f"{place}/{record_type.filename}" for file in files):
            yield Garbage.of(place, "no record: its publish never ended", files)
        elif not store.is_local:
            yield from _of_losers(record_type, key, files, store)


def _of_losers(record_type: type[Record], key: str, files: list[StoredFile], store: Store) -> Iterator[Garbage]:
    try:
        record = store.find(record_type, key)
    except (IntegrityError, CompatibilityError):
        return  # damaged, or another version's: not ours to judge
    if record is None:
        return
    kept = record.uri.removeprefix(f"{store.uri}/")
    others: dict[str, list[StoredFile]] = defaultdict(list)
    for file in files:
        parts = file.path.split("/")
        if len(parts) > 3 and not file.path.startswith(f"{kept}/"):
            others["/".join(parts[:3])].append(file)
    for place, found in others.items():
        yield Garbage.of(place, "uploaded by a writer that came second", found)


def _of_shared(listing: _Listing, store: Store) -> Iterator[Garbage]:
    """Yield shared encodings that no published encoded set lists, and the indexes of these.

    None while a run may be at work: it may be about to publish a set that lists them.
    """
    if listing.last_lease_at > time.time() - AT_WORK_S or _is_encoding(listing, store):
        return
    needed = set(_needed_files(listing, store))
    for file in listing.shared:
        is_index = file.path.endswith(".json")
        shard = _shard_of(store, file) if is_index else file.path
        if shard is not None and shard not in needed:
            yield Garbage.of(file.path, "no encoded set uses it", [file])


def _is_encoding(listing: _Listing, store: Store) -> bool:
    """Return whether a process of this machine holds an ``encode`` of a local store."""
    locks = (file.path for files in listing.work.values() for file in files if file.path.endswith("/.lock"))
    return any(is_held((Path(store.uri) / path).parent) for path in locks if path.startswith(f"{WORK}/encode/"))


def _needed_files(listing: _Listing, store: Store) -> Iterator[str]:
    names = tuple(f"/{name}" for name in INDEXES)
    for (stage, _), files in listing.published.items():
        for file in files:
            if stage == "encode" and file.path.endswith(names):
                yield from _listed(store, file)


def _listed(store: Store, file: StoredFile) -> list[str]:
    where = f"{store.uri}/{file.path}"
    try:
        return [str(shard["file"]["path"]) for shard in json.loads(read_bytes(where))]
    except (ValueError, KeyError, TypeError, RecursionError, MissingInputError) as error:
        raise IntegrityError(
            "It is not known which shared files an encoded set needs: its list cannot be read.",
            found=str(error).splitlines()[0][:200],
            where=where,
            fix="restore the file, or remove that prefix; nothing was removed",
        ) from error


def _shard_of(store: Store, index: StoredFile) -> str | None:
    """Return which shared file an index is of; None where it does not say."""
    try:
        return str(json.loads(read_bytes(f"{store.uri}/{index.path}"))["file"]["path"])
    except (ValueError, KeyError, TypeError, RecursionError, MissingInputError):
        return None


def _of_work(listing: _Listing) -> Iterator[Garbage]:
    """Yield work folders and requests that were left; whether somebody works there is seen when they are removed."""
    for place, files in listing.work.items():
        kind = place.split("/")[2]
        if kind in BESIDE_WORK:
            for file in files:
                yield Garbage.of(file.path, "noted by an attempt that ended", [file])
        elif kind == TURNS:
            turns = {"/".join(file.path.split("/")[:4]) for file in files}
            for turn in turns:
                of_turn = [file for file in files if file.path == turn or file.path.startswith(f"{turn}/")]
                yield Garbage.of(turn, "a turn that ended", of_turn)
        else:
            yield Garbage.of(place, "unfinished work that nobody went on with", files)


def is_worked_on(store: Store, place: str) -> bool:
    """Return whether a run holds the stage key that ``.work/STAGE/requests/KEY.json`` is of."""
    stage, key = Path(store.uri) / WORK / place.split("/")[1], Path(place).name.partition(".")[0]
    return is_held(stage / key) or is_held(stage / TURNS / key)


def _of_checkpoints(listing: _Listing, store: Store) -> Iterator[Garbage]:
    """Yield copies of what is under way, checkpoints and images: of finished stages, and left by others."""
    stages = {key: stage for stage, key in listing.published}
    for key, files in listing.checkpoints.items():
        is_finished = key in stages and store.find(RECORDS[stages[key]], key) is not None
        why = "copies of a stage that is finished" if is_finished else "copies of a stage that nobody went on with"
        yield Garbage.of(f"{CHECKPOINTS}/{key}", why, files)
