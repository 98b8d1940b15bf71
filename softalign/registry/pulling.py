"""Fetching a registered version: every file verified by sha256, kept in the cache, usable without the registry after.

Cache: ``{cache}/models/{registry}/{name}/{version}-{files}/`` holds verified copies and ``refs/`` beside them what each
reference last meant. When the registry does not answer, the last verified copy is used, and the log says so.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from softalign.artifacts import FileEntry, digest_of
from softalign.errors import ConfigError, IntegrityError, MissingInputError, SoftAlignError, StorageUnavailableError
from softalign.registry.connection import (
    ARTIFACTS_NAME,
    SQLITE,
    consumer_uri,
    registry_client,
    require_database,
    without_credentials,
)
from softalign.registry.versions import Reference, RegisteredFiles, find_version, parse_reference, registered_files
from softalign.store.files import (
    cache_dir,
    is_local,
    local_path_of,
    private_cache,
    replacing,
    verify_file,
    write_atomically,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PulledVersion:
    """A registered version on this machine.

    Attributes:
        alias: by which it was asked for; empty where it was by number.
        is_offline: the registry did not answer, so this is the copy that was last verified.
    """

    path: Path
    name: str
    version: int
    alias: str
    is_offline: bool


def pull(reference: str, to: Path | str | None = None, tracking_uri: str | None = None) -> Path:
    """Return a local folder with a registered version's files, all verified: ``pull_version`` without the rest."""
    return pull_version(reference, to, tracking_uri).path


def pull_version(reference: str, to: Path | str | None = None, tracking_uri: str | None = None) -> PulledVersion:
    """Return a registered version, its files verified in a local folder.

    Args:
        reference: ``models:/NAME@ALIAS``, ``models:/NAME/3``, ``NAME@ALIAS`` or ``NAME/3``.
        to: copy the files there (a folder that is new, empty, or holds just these files); unset: the cache's folder,
            which must not be changed.
        tracking_uri: the registry; unset: ``MLFLOW_TRACKING_URI``, else that of the store in the working folder.

    Raises:
        ConfigError: the reference is malformed, ``to`` holds other files, or mlflow is not installed.
        RegistryError: no such model, alias or version; lists those there are.
        IntegrityError: a file is missing, truncated or changed.
        StorageUnavailableError, MissingInputError: no registry answers, and nothing was pulled before.
    """
    wanted = parse_reference(reference)
    uri = consumer_uri(tracking_uri)
    cache = cache_dir() / "models" / digest_of(without_credentials(uri))[:16] / wanted.name
    try:
        found, is_offline = _download(wanted, uri, cache), False
    except (StorageUnavailableError, MissingInputError) as error:
        found, is_offline = _last_verified(wanted, cache, error), True
    folder = _folder(cache, found)
    path = folder if to is None else _copy_out(folder, Path(to), found)
    return PulledVersion(path, found.name, found.version, wanted.alias, is_offline)


def _download(wanted: Reference, uri: str, cache: Path) -> RegisteredFiles:
    require_database(uri)
    with registry_client(uri) as client:
        found = registered_files(find_version(client, wanted))
        target = _folder(cache, found)
        if not _is_intact(target, found.files):
            _fetch(found, client.tracking_uri, target)
    write_atomically(_reference_path(cache, wanted), found.model_dump_json(indent=1).encode())
    return found


def _fetch(found: RegisteredFiles, uri: str, target: Path) -> None:
    """Download into a temporary folder beside the target, verify there, and move what is right into place."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    where = f"models:/{found.name}/{found.version}"
    private_cache()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as temporary:
        try:
            source = _present_source(found.source, uri)
            folder = Path(download_artifacts(artifact_uri=source, dst_path=temporary, tracking_uri=uri))
        except (OSError, MlflowException) as error:
            if not _says_missing(error):
                raise
            raise IntegrityError(
                "A registered version's files are not there.",
                expected=f"{len(found.files)} files",
                found=str(error).splitlines()[-1][:300],
                where=where,
                fix="restore the registry's artifact folder, or register the adapter again",
            ) from error
        with replacing(target, drops_folder=True) as made:  # a copy that was damaged after it was verified
            for entry in found.files:
                _verify(folder / entry.path, entry, where)
                (made / entry.path).parent.mkdir(parents=True, exist_ok=True)
                (folder / entry.path).replace(made / entry.path)


def _says_missing(error: Any) -> bool:
    """Return whether an error says that files are not there, as folders, MLflow and its artifacts' proxy say it."""
    if hasattr(error, "error_code"):
        return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
    if hasattr(error, "response"):
        return error.response is not None and bool(error.response.status_code == HTTPStatus.NOT_FOUND)
    return True


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


def _is_intact(folder: Path, files: tuple[FileEntry, ...]) -> bool:
    try:
        for entry in files:
            verify_file(folder / entry.path, entry, str(folder))
    except IntegrityError:
        return False
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return present == {entry.path for entry in files}


def _last_verified(wanted: Reference, cache: Path, error: SoftAlignError) -> RegisteredFiles:
    path = _reference_path(cache, wanted)
    if not path.is_file():
        raise error
    found = RegisteredFiles.model_validate_json(path.read_bytes())
    if not _is_intact(_folder(cache, found), found.files):
        raise error
    logger.warning(
        "The registry could not be asked (%s); using the copy of %s/%d that was verified when %s was last pulled. "
        "It may not be the newest.",
        error.what,
        found.name,
        found.version,
        wanted,
    )
    return found


def _folder(cache: Path, found: RegisteredFiles) -> Path:
    return cache / f"{found.version}-{digest_of([entry.model_dump() for entry in found.files])[:16]}"


def _reference_path(cache: Path, wanted: Reference) -> Path:
    return cache / "refs" / (f"alias-{wanted.alias}.json" if wanted.alias else f"version-{wanted.version}.json")


def _copy_out(folder: Path, target: Path, found: RegisteredFiles) -> Path:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if target.is_dir() and _is_intact(target, found.files):
            return target
        raise ConfigError(
            "The target holds other files; nothing was written.",
            expected="a folder that is new, empty or holds just this version",
            found=", ".join(sorted(path.name for path in target.iterdir()))[:200] if target.is_dir() else "a file",
            where=str(target),
            fix="choose another folder, or empty this one",
        )
    shutil.copytree(folder, target, dirs_exist_ok=True)
    for entry in found.files:
        _verify(target / entry.path, entry, str(target))
    return target
