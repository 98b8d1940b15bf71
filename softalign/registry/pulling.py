"""Fetching a registered version: every file verified by sha256, kept in the cache, usable without the registry after.

A version never changes: one that is in the cache is taken from there, and a server is not asked. An alias is asked for
each time, once; from then on its version is meant, whatever becomes of the alias. When the registry does not answer,
what the alias last meant is used, and the log says so.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from softalign.artifacts import FileEntry
from softalign.errors import (
    ConfigError,
    IntegrityError,
    MissingInputError,
    SoftAlignError,
    StorageUnavailableError,
    os_error_fix,
    os_error_text,
)
from softalign.registry.connection import (
    ARTIFACTS_NAME,
    HTTP,
    SQLITE,
    consumer_uri,
    patience_s,
    registry_client,
    require_database,
)
from softalign.registry.copying_out import copy_out
from softalign.registry.hostile import refuse_contents, refuse_pickles
from softalign.registry.pulled_cache import PulledCache, PulledReference
from softalign.registry.versions import Reference, RegisteredFiles, find_version, parse_reference, registered_files
from softalign.store.files import is_local, local_path_of, verify_file
from softalign.store.offline import OFFLINE_VARIABLE, is_offline
from softalign.store.reaching import reaching

PARALLEL_FILES = 4
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PulledVersion:
    """A registered version on this machine.

    Attributes:
        alias: by which it was asked for; empty where it was by number.
        is_offline: the registry could not or should not be asked, so this is the copy that was last verified. A version
            asked for by number never changes: one that is here already is not such a copy.
    """

    path: Path
    name: str
    version: int
    alias: str
    is_offline: bool


def pull(reference: str, to: Path | str | None = None, tracking_uri: str | None = None) -> Path:
    """Return a local folder with a registered version's files, all verified: ``pull_version`` without the rest."""
    return pull_version(reference, to, tracking_uri).path


def pull_version(
    reference: str,
    to: Path | str | None = None,
    tracking_uri: str | None = None,
    *,
    offline: bool | None = None,
    timeout_s: float | None = None,
) -> PulledVersion:
    """Return a registered version, its files verified in a local folder.

    Args:
        reference: ``models:/NAME@ALIAS``, ``models:/NAME/3``, ``NAME@ALIAS`` or ``NAME/3``.
        to: copy the files there: to a folder that is new, empty, or filled by an earlier pull, which is updated or
            repaired; unset: the cache's folder, which must not be changed.
        tracking_uri: the registry; unset: ``MLFLOW_TRACKING_URI``, else that of the store in the working folder.
        offline: use the cache alone; unset: ``SOFTALIGN_OFFLINE`` says.
        timeout_s: how long a server may be silent; unset: 30 s, or what MLflow's own variables say.

    Raises:
        ConfigError: the reference is malformed, ``to`` holds other files, or mlflow is not installed.
        RegistryError: no such model, alias or version; lists those there are.
        IntegrityError: a file is missing, truncated or changed.
        StorageUnavailableError, MissingInputError: no registry answers, and nothing was pulled before; no room.
    """
    wanted = parse_reference(reference)
    uri = consumer_uri(tracking_uri)
    cache = PulledCache.of(uri)
    found, is_last = _find(wanted, uri, cache, is_offline() if offline is None else offline, timeout_s)
    path = cache.folder(found.files)
    if to is not None:
        copy_out(cache, Path(to), found.files)
        path = Path(to)
    return PulledVersion(path, found.name, found.version, wanted.alias, is_last)


def _find(
    wanted: Reference, uri: str, cache: PulledCache, offline: bool, timeout_s: float | None
) -> tuple[RegisteredFiles | PulledReference, bool]:
    """Return what a reference means, its files whole in the cache, and whether that is from memory."""
    if offline:
        return _recalled(wanted, cache), True
    # a database is a file here, which may have been made anew: its version 1 is not the version 1 before
    if wanted.version and uri.startswith(HTTP) and (known := cache.recall(wanted)) is not None:
        logger.debug("%s is in the cache; %s was not asked", wanted, cache.registry)
        return known, False
    try:
        return _download(wanted, uri, cache, timeout_s), False
    except (StorageUnavailableError, MissingInputError) as error:
        last = cache.recall(wanted)
        if last is None or _is_no_room(error.__cause__):
            raise
        _warn_of(last, wanted, error)
        return last, True


def _recalled(wanted: Reference, cache: PulledCache) -> PulledReference:
    found = cache.recall(wanted)
    if found is None:
        raise MissingInputError(
            f"{wanted} is not in the cache, and the registry is not asked: offline.",
            expected="a version that was pulled before, whole",
            found=cache.known(wanted.name) or f"nothing of {wanted.name} of this registry",
            where=f"{cache.root}, {cache.registry}",
            fix=f"pull it once without --offline and {OFFLINE_VARIABLE}, or name one that is there",
        )
    return found


def _warn_of(last: PulledReference, wanted: Reference, error: SoftAlignError) -> None:
    logger.warning(
        "The registry could not be asked (%s); using the copy of %s/%d that was verified when %s was last pulled. "
        "It may not be the newest.",
        error.what,
        last.name,
        last.version,
        wanted,
    )


def _download(wanted: Reference, uri: str, cache: PulledCache, timeout_s: float | None) -> RegisteredFiles:
    require_database(uri)
    with registry_client(uri, patience_s(timeout_s)) as client:
        found = registered_files(find_version(client, wanted))
        if cache.intact(found.files) is None:
            with _explained_cache(cache.root, found.files):
                _fetch(found, client.tracking_uri, cache)
    cache.note(wanted, found)
    return found


@contextmanager
def _explained_cache(root: Path, files: tuple[FileEntry, ...]) -> Iterator[None]:
    """Say of this machine's own errors that they are its own: the registry did answer."""
    try:
        yield
    except OSError as error:
        found, fix = os_error_text(error), os_error_fix(error)
        if _is_no_room(error):
            raise StorageUnavailableError(
                "There is no room in the cache for the version's files.",
                expected=f"{sum(entry.size_bytes for entry in files)} bytes",
                found=found,
                where=str(root),
                fix=f"{fix}; `softalign cache list` shows what is kept, SOFTALIGN_CACHE moves it",
            ) from error
        if error.errno in _NOT_WRITABLE:
            fix = "set SOFTALIGN_CACHE to a folder that can be written: this version is not in the cache yet"
            raise ConfigError("The cache cannot be written.", found=found, where=str(root), fix=fix) from error
        raise


def _is_no_room(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def _fetch(found: RegisteredFiles, uri: str, cache: PulledCache) -> None:
    """Download what the version lists into a temporary folder, verify there, and move it into place whole."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    where = f"models:/{found.name}/{found.version}"
    with cache.downloading(found.files) as folder:
        if cache.intact(found.files) is not None:  # another process was sooner
            return
        refuse_pickles(found.files, where)
        _require_room(found, folder)
        source = _present_source(found.source, uri)
        repository = get_artifact_repository(source, tracking_uri=uri)
        for entry in found.files:
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:  # leaves when all are done, or the first has failed
            fetched = [pool.submit(partial(_fetch_one, repository, entry, folder, where)) for entry in found.files]
            try:
                for one in fetched:
                    one.result()
            finally:
                pool.shutdown(cancel_futures=True)
        refuse_contents(folder, found.files, where)
        cache.put(folder, found.files)


def _require_room(found: RegisteredFiles, folder: Path) -> None:
    """Refuse before the first byte what does not fit on the disk."""
    needed, free = sum(entry.size_bytes for entry in found.files), shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"No space left on device: {free} bytes are free", str(folder))


def _fetch_one(repository: Any, entry: FileEntry, folder: Path, where: str) -> None:
    """Fetch one file: what each kind of repository itself does, so that nothing but what is listed is asked for."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    path = folder / entry.path
    try:
        repository._download_file(entry.path, str(path))
    except Exception as error:
        if _says_missing(error):
            raise IntegrityError(
                "A registered version's files are not there.",
                expected=f"{entry.size_bytes} bytes, sha256 {entry.sha256}",
                found=str(error).splitlines()[-1][:300],
                where=f"{where}/{entry.path}",
                fix="restore the registry's artifact folder, or register the adapter again",
            ) from error
        if isinstance(error, (RequestException, MlflowException, ImportError)) or _is_no_room(error):
            raise
        with reaching(repository.artifact_uri):
            raise
    _verify(path, entry, where)


def _says_missing(error: Exception) -> bool:
    """Return whether an error says that files are not there, as folders, MLflow, its proxy and S3's client say it."""
    if hasattr(error, "error_code"):
        return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return bool(response.get("ResponseMetadata", {}).get("HTTPStatusCode") == HTTPStatus.NOT_FOUND)
    if response is not None:
        return bool(response.status_code == HTTPStatus.NOT_FOUND)
    return isinstance(error, (FileNotFoundError, NotADirectoryError))


def _present_source(source: str, uri: str) -> str:
    """Return where a version's files are now: a store folder may have been moved since they were registered."""
    if not (uri.startswith(SQLITE) and is_local(source)) or local_path_of(source).is_dir():
        return source
    _, separator, tail = source.rpartition(f"/{ARTIFACTS_NAME}/")
    moved = Path(uri.removeprefix(SQLITE)).parent / ARTIFACTS_NAME / tail
    return moved.as_uri() if separator and moved.is_dir() else source


def _verify(path: Path, entry: FileEntry, where: str) -> None:
    try:
        verify_file(path, entry, where)
    except IntegrityError as error:
        raise IntegrityError(
            "A registered file is not what was registered; nothing of it was kept.",
            expected=error.expected,
            found=error.found,
            where=f"{where}/{entry.path}",
            fix="pull again; if it stays so, the registry's artifacts were changed: roll back or register again",
        ) from error
