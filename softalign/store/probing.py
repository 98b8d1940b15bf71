"""Whether a store can do what publishing asks of it: found out with one tiny file, which is removed again."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from softalign.errors import ConfigError, IntegrityError, MissingInputError, StorageUnavailableError
from softalign.store.files import cache_dir, create_file, open_filesystem, read_bytes
from softalign.store.reaching import reaching
from softalign.store.store import Store

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PROBE_PREFIX = ".probe-"
"""Begins the name of the tiny file; it ends with random digits."""
_CONTENT = b"softalign asks whether this store can be written\n"


@dataclass(frozen=True, slots=True)
class Probe:
    """What a store answered.

    Attributes:
        seconds: how long writing, reading and removing a tiny file took.
        clock_skew_s: how far this machine's clock is ahead of the store's; None where the store has none of its own.
    """

    seconds: float
    clock_skew_s: float | None


def probe(store: Store) -> Probe:
    """Write, read, and remove a tiny file in a store.

    A local store's folder is not made for it: the nearest folder that is there is asked.

    Raises:
        MissingInputError: the bucket does not exist.
        ConfigError: the store refused access, or replaces what was to be created only if absent.
        IntegrityError: what was read is not what was written.
        StorageUnavailableError: the store did not answer.
    """
    started = time.monotonic()
    skew_s = None
    if store.is_local:
        _probe_local(Path(store.uri))
    else:
        skew_s = _probe_remote(store.uri)
    return Probe(time.monotonic() - started, skew_s)


def _probe_local(folder: Path) -> None:
    nearest = nearest_folder(folder)
    with reaching(str(folder)):
        try:
            with tempfile.TemporaryFile(dir=nearest) as file:
                file.write(_CONTENT)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError as error:  # what /proc and the like say
            raise ConfigError("The store cannot be made there.", found=str(error), where=str(folder)) from error


def _probe_remote(uri: str) -> float | None:
    place = f"{uri}/{PROBE_PREFIX}{uuid.uuid4().hex}"
    filesystem, path = open_filesystem(place)
    try:
        with reaching(uri):
            _require_bucket(filesystem, path)
        create_file(place, _CONTENT)
        found = read_bytes(place)
        with reaching(place):
            info = filesystem.info(path)
        is_replaced = create_file(place, _CONTENT)
    except MissingInputError as error:
        raise MissingInputError(
            "The store does not exist.", found=error.found, where=uri, fix="create the bucket or correct --store"
        ) from error
    finally:
        _remove(place)
    if found != _CONTENT:
        raise IntegrityError("The store does not give back what was written.", where=uri, found=f"{len(found)} bytes")
    if is_replaced:
        raise ConfigError(
            "The store replaces a file that was to be created only if there was none.",
            expected="If-None-Match to be honoured, so that of two writers one wins",
            where=uri,
            fix="use S3 itself, or a server that honours it (MinIO, seaweedfs, Ceph, R2)",
        )
    written_at = info.get("LastModified")
    return time.time() - written_at.timestamp() if isinstance(written_at, datetime) else None


def _require_bucket(filesystem: AbstractFileSystem, path: str) -> None:
    """Refuse a bucket that is not there before anything is written: some servers would make it."""
    if "s3" not in filesystem.protocol:
        return
    bucket = path.partition("/")[0]
    with suppress(PermissionError):  # who may not list a bucket may still write to it
        filesystem.info(bucket)


def _remove(place: str) -> None:
    filesystem, path = open_filesystem(place)
    try:
        with reaching(place):
            filesystem.rm_file(path)
    except (MissingInputError, ConfigError, StorageUnavailableError):
        return  # what stopped the probe is the error to report, and who may not delete may still publish


def nearest_folder(path: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.is_dir())


def scratch_folder(store: Store) -> Path:
    """Return the folder of this machine where a stage's work lies until it is published."""
    return Path(store.uri) if store.is_local else cache_dir()


def free_bytes(folder: Path) -> int:
    """Return how much room the disk of a folder has for this user, also where the folder is not there yet."""
    return shutil.disk_usage(nearest_folder(folder)).free
