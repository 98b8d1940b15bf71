"""Where records and their files live: local folders and any fsspec URI (``s3://``), published whole or not at all.

``{store}/{stage}/{stage_key}/`` holds the record of a stage, and beside it the stage's files with ``files.json`` (their
list with sha256). A local prefix appears by one rename. An object store has no rename: there the files lie one level
deeper, under the first digits of ``files_digest``, so that two writers of different content never mix, and the record,
created last and only if there is none, makes them exist. ``{store}/encoded/`` holds single files that datasets share.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from softalign.artifacts import FileEntry, Record, Stage, digest_of
from softalign.errors import ConfigError, IntegrityError, MissingInputError, StorageUnavailableError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

RecordT = TypeVar("RecordT", bound=Record)
_CHUNK_BYTES = 1 << 20


def sha256_of_file(path: Path) -> str:
    """Return the sha256 hex digest of a local file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a local file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def is_local(uri: str) -> bool:
    """Return whether a URI names a local path."""
    return "://" not in uri or uri.startswith("file://")


def local_path_of(uri: str) -> Path:
    """Return the local path that a plain path or ``file://`` URI names."""
    return Path(uri.removeprefix("file://"))


def cache_dir() -> Path:
    """Return the folder for cached copies and work in progress (``SOFTALIGN_CACHE`` or ``~/.cache/softalign``)."""
    return Path(os.environ.get("SOFTALIGN_CACHE") or Path.home() / ".cache" / "softalign")


def open_filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the filesystem of a URI and the path within it.

    Raises:
        ConfigError: no filesystem for this kind of URI is installed.
    """
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            "This kind of URI cannot be opened.",
            found=str(error),
            where=uri,
            fix="use a path or s3:// (pip install 'softalign[pipeline]' brings s3fs)",
        ) from error
    return filesystem, str(path)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn what filesystems raise while a URI is read or written into this library's errors.

    Raises:
        MissingInputError: there is no such file, folder or bucket.
        ConfigError: the store refused these credentials or is not a folder.
        StorageUnavailableError: the store did not answer; a retry may help.
    """
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingInputError("A file is missing.", found=_text_of(error), where=uri) from error
    except PermissionError as error:
        raise ConfigError(
            "The store refused access.", found=_text_of(error), where=uri, fix="check credentials and permissions"
        ) from error
    except NotADirectoryError as error:
        raise ConfigError(
            "The store's place is taken by a file.", expected="a folder", found=_text_of(error), where=uri
        ) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise MissingInputError("A file is missing: no file can have so long a name.", where=uri[:200]) from error
        raise StorageUnavailableError("The store did not answer.", found=_text_of(error), where=uri) from error
    except Exception as error:
        if not _is_client_error(error):
            raise
        if "Credentials" in type(error).__name__:
            raise ConfigError(
                "There are no credentials for the store.",
                found=_text_of(error),
                where=uri,
                fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from error
        raise StorageUnavailableError(
            "The store did not answer.",
            found=_text_of(error),
            where=uri,
            fix="check the endpoint (AWS_ENDPOINT_URL) and the network",
        ) from error


def _is_client_error(error: Exception) -> bool:
    """Whether an error comes from the S3 client, which is an optional package and has its own error family."""
    return type(error).__module__.partition(".")[0] in {"botocore", "aiobotocore", "aiohttp"}


def _text_of(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]


def read_bytes(uri: str) -> bytes:
    """Return a file's content.

    Raises:
        MissingInputError: there is no such file.
        StorageUnavailableError: the store did not answer.
    """
    filesystem, path = open_filesystem(uri)
    with reaching(uri):
        return bytes(filesystem.cat_file(path))


def list_files(root: Path) -> tuple[FileEntry, ...]:
    """Return the entries of all regular files below a local folder, by path."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return tuple(file_entry(root / name, name) for name in names)


def file_entry(path: Path, name: str) -> FileEntry:
    """Return the entry of a local file, listed under a name."""
    return FileEntry(path=name, size_bytes=path.stat().st_size, sha256=sha256_of_file(path))


class Store:
    """A root URI under which all stages publish.

    Args:
        uri: a local folder (made when first written to) or any fsspec URI.
    """

    def __init__(self, uri: str) -> None:
        self.uri = str(local_path_of(uri).absolute()) if is_local(uri) else uri.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder of this machine."""
        return is_local(self.uri)

    def prefix(self, stage: Stage, key: str) -> str:
        """Return the URI of a stage's output."""
        return f"{self.uri}/{stage}/{key}"

    def work_path(self, stage: Stage, key: str) -> Path:
        """Return the local folder for a stage's unfinished work; the same after a restart, so work can resume."""
        root = Path(self.uri) / ".work" if self.is_local else cache_dir() / "work" / digest_of(self.uri)[:16]
        path = root / stage / key
        path.mkdir(parents=True, exist_ok=True)
        return path

    def find(self, record_type: type[RecordT], key: str) -> RecordT | None:
        """Return the record published under a stage key, or None.

        Raises:
            IntegrityError: a record lies there but is damaged or answers another request.
            StorageUnavailableError: the store did not answer.
        """
        prefix = self.prefix(record_type.stage, key)
        try:
            data = read_bytes(f"{prefix}/{record_type.filename}")
        except MissingInputError:
            return None
        record = record_type.from_json(data, prefix)
        if record.stage_key != key:
            raise IntegrityError(
                "A record lies under another stage key than its own.",
                expected=key,
                found=record.stage_key,
                where=prefix,
                fix="remove this prefix and rerun the stage",
            )
        return record.model_copy(update={"uri": self._files_uri(record)})

    def publish(self, record: RecordT, folder: Path) -> RecordT:
        """Publish a finished local folder under the record's stage key and return the record with its place.

        Publishing the same content again changes nothing; of several writers the first wins. The local folder is
        consumed.

        Raises:
            IntegrityError: other content is already published there, or an upload arrived changed.
            ConfigError: the store cannot be written to.
            StorageUnavailableError: the store did not answer.
        """
        for leftover in (folder / "files.json", folder / record.filename):
            leftover.unlink(missing_ok=True)
        entries = list_files(folder)
        files_json = [entry.model_dump() for entry in entries]
        final = record.model_copy(update={"files_digest": digest_of(files_json)})
        final = final.model_copy(update={"uri": self._files_uri(final)})
        if not self._is_published(final):
            (folder / "files.json").write_text(json.dumps(files_json, indent=1) + "\n", encoding="utf-8")
            if self.is_local:
                self._publish_local(final, folder)
            else:
                self._publish_remote(final, folder, entries)
        shutil.rmtree(folder, ignore_errors=True)
        return final

    def files(self, record: Record) -> tuple[FileEntry, ...]:
        """Return the file list of a published record, checked against the record.

        Raises:
            IntegrityError: ``files.json`` is missing or not the list the record was published with.
        """
        where = f"{record.uri}/files.json"
        try:
            listed = json.loads(read_bytes(where))
            found = f"digest {digest_of(listed)}"
        except (MissingInputError, ValueError) as error:
            listed, found = [], str(error).splitlines()[0]
        if found != f"digest {record.files_digest}":
            raise IntegrityError(
                "The file list is not the one that was published.",
                expected=f"digest {record.files_digest}",
                found=found,
                where=where,
                fix="remove this prefix and rerun the stage",
            )
        return tuple(FileEntry.model_validate(entry) for entry in listed)

    def fetch(self, record: Record, under: str = "") -> Path:
        """Return a local folder with a record's files (those whose path starts with ``under``), verified by sha256.

        A local store's files are verified in place; others are copied to the cache, once.

        Raises:
            IntegrityError: a file is missing, truncated or changed.
            StorageUnavailableError: the store did not answer.
        """
        root = local_path_of(record.uri) if is_local(record.uri) else cache_dir() / record.stage / record.digest
        for entry in self.files(record):
            if entry.path.startswith(under):
                _fetch_verified(entry, f"{record.uri}/{entry.path}", root / entry.path)
        return root

    def add_shared(self, folder: str, path: Path) -> FileEntry:
        """Add a local file to the files that datasets share, named by its content; adding it again changes nothing.

        Args:
            folder: below ``{store}/encoded``.
            path: the local file; it is consumed.
        """
        digest = sha256_of_file(path)
        entry = file_entry(path, f"encoded/{folder}/{digest[:32]}{path.suffix}")
        target = f"{self.uri}/{entry.path}"
        filesystem, target_path = open_filesystem(target)
        with reaching(target):
            if self.is_local:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                _move_file(path, Path(target))
            elif not filesystem.exists(target_path):
                filesystem.put_file(str(path), target_path)
        path.unlink(missing_ok=True)
        return entry

    def fetch_shared(self, entry: FileEntry) -> Path:
        """Return a local path of a shared file, verified by sha256.

        Raises:
            IntegrityError: the file is missing, truncated or changed.
            StorageUnavailableError: the store did not answer.
        """
        uri = f"{self.uri}/{entry.path}"
        local = Path(uri) if self.is_local else cache_dir() / "encoded" / entry.sha256
        _fetch_verified(entry, uri, local)
        return local

    def create_note(self, relative: str, data: bytes) -> bytes:
        """Create a small file below ``{store}/encoded`` unless it exists; return what is there afterwards."""
        uri = f"{self.uri}/encoded/{relative}"
        _create(uri, data)
        return read_bytes(uri)

    def read_notes(self, folder: str) -> Iterator[bytes]:
        """Yield the content of the small JSON files of a folder below ``{store}/encoded``, by name."""
        uri = f"{self.uri}/encoded/{folder}"
        filesystem, path = open_filesystem(uri)
        with reaching(uri):
            filesystem.invalidate_cache()
            names = filesystem.ls(path, detail=False) if filesystem.isdir(path) else []
        for name in sorted(str(name).rpartition("/")[2] for name in names):
            if name.endswith(".json") and not name.startswith("."):
                yield read_bytes(f"{uri}/{name}")

    def _files_uri(self, record: Record) -> str:
        prefix = self.prefix(record.stage, record.stage_key)
        return prefix if self.is_local else f"{prefix}/{record.files_digest[:16]}"

    def _is_published(self, final: Record) -> bool:
        """Return whether this very content is published.

        Raises:
            IntegrityError: other content is.
        """
        published = self.find(type(final), final.stage_key)
        if published is not None and published.digest != final.digest:
            raise IntegrityError(
                "Other content is already published for this request; nothing was overwritten.",
                expected=f"digest {published.digest}",
                found=f"digest {final.digest}",
                where=self.prefix(final.stage, final.stage_key),
                fix="if the published one is wrong, remove its prefix and rerun the stage",
            )
        return published is not None

    def _publish_local(self, final: Record, folder: Path) -> None:
        target = Path(self.prefix(final.stage, final.stage_key))
        with reaching(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / final.filename).write_bytes(final.to_json())
            complete = _on_filesystem_of(target.parent, folder)
            try:
                complete.replace(target)
            except OSError as error:  # something is there: another writer's, or what a copy by hand left
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                if not self._is_published(final):
                    target.replace(complete.with_name(f".{target.name}.unfinished.{uuid.uuid4().hex[:8]}"))
                    complete.replace(target)

    def _publish_remote(self, final: Record, folder: Path, entries: tuple[FileEntry, ...]) -> None:
        filesystem, base = open_filesystem(final.uri)
        with reaching(final.uri):
            for name in (*(entry.path for entry in entries), "files.json"):
                filesystem.put_file(str(folder / name), f"{base}/{name}")
            filesystem.invalidate_cache()
            sizes = {entry.path: filesystem.size(f"{base}/{entry.path}") for entry in entries}
        for entry in entries:
            if sizes[entry.path] != entry.size_bytes:
                raise IntegrityError(
                    "An upload arrived with another size.",
                    expected=f"{entry.size_bytes} bytes",
                    found=f"{sizes[entry.path]} bytes",
                    where=f"{final.uri}/{entry.path}",
                    fix="rerun the stage: nothing was published",
                )
        if not _create(f"{self.prefix(final.stage, final.stage_key)}/{final.filename}", final.to_json()):
            self._is_published(final)


def _create(uri: str, data: bytes) -> bool:
    """Create a file with this content unless one exists; return whether it was created."""
    filesystem, path = open_filesystem(uri)
    if is_local(uri):
        target = local_path_of(uri)
        if target.exists():
            return False
        with reaching(uri):
            write_atomically(target, data)
        return True
    with reaching(uri):
        try:
            filesystem.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
    return True


def _move_file(path: Path, target: Path) -> None:
    if path.stat().st_dev != target.parent.stat().st_dev:
        copy = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        shutil.copyfile(path, copy)
        path = copy
    path.replace(target)


def _on_filesystem_of(parent: Path, folder: Path) -> Path:
    """Return a folder with the same content that can be renamed into ``parent``."""
    if folder.stat().st_dev == parent.stat().st_dev:
        return folder
    copy = parent / f".copy.{uuid.uuid4().hex[:8]}"
    shutil.copytree(folder, copy)
    return copy


def _fetch_verified(entry: FileEntry, uri: str, local: Path) -> None:
    """Make sure that a local path holds a stored file's bytes; a damaged cached copy is fetched again."""
    if not is_local(uri) and not _matches(local, entry):
        filesystem, path = open_filesystem(uri)
        local.parent.mkdir(parents=True, exist_ok=True)
        partial = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}")
        try:
            with reaching(uri):
                filesystem.get_file(path, str(partial))
            partial.replace(local)
        except MissingInputError:
            local.unlink(missing_ok=True)
        finally:
            partial.unlink(missing_ok=True)
    verify_file(local, entry, where=uri)


def _matches(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.size_bytes and sha256_of_file(path) == entry.sha256


def verify_file(path: Path, entry: FileEntry, where: str) -> None:
    """Check a local file against its entry.

    Raises:
        IntegrityError: the file is missing, truncated or changed.
    """
    found = "no file" if not path.is_file() else f"{path.stat().st_size} bytes, sha256 {sha256_of_file(path)}"
    expected = f"{entry.size_bytes} bytes, sha256 {entry.sha256}"
    if found != expected:
        raise IntegrityError(
            "A stored file is not what was published.",
            expected=expected,
            found=found,
            where=where,
            fix="restore it, or remove its prefix and rerun the stage",
        )
