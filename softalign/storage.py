"""Where records and their files live: local folders and any fsspec URI (``s3://``), published whole or not at all.

Layout: ``{store}/{stage}/{stage_key}/`` holds a stage's files, ``files.json`` (their list with sha256) and, written
last, the record. A prefix without its record does not exist for any reader.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
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


def read_bytes(uri: str) -> bytes:
    """Return a file's content.

    Raises:
        MissingInputError: there is no such file.
        StorageUnavailableError: the store did not answer.
    """
    filesystem, path = open_filesystem(uri)
    try:
        return bytes(filesystem.cat_file(path))
    except FileNotFoundError as error:
        raise MissingInputError("A file is missing.", where=uri) from error
    except OSError as error:
        raise StorageUnavailableError("A file could not be read.", found=str(error), where=uri) from error


def list_files(root: Path) -> tuple[FileEntry, ...]:
    """Return the entries of all regular files below a local folder, by path."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return tuple(
        FileEntry(path=path.relative_to(root).as_posix(), size_bytes=path.stat().st_size, sha256=sha256_of_file(path))
        for path in paths
    )


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
        """
        uri = self.prefix(record_type.stage, key)
        try:
            data = read_bytes(f"{uri}/{record_type.filename}")
        except MissingInputError:
            return None
        record = record_type.from_json(data, uri)
        if record.stage_key != key:
            raise IntegrityError(
                "A record lies under another stage key than its own.", expected=key, found=record.stage_key, where=uri
            )
        return record

    def publish(self, record: RecordT, folder: Path) -> RecordT:
        """Publish a finished local folder under the record's stage key and return the record with its place.

        Publishing the same content again changes nothing. The local folder is consumed.

        Raises:
            IntegrityError: other content is already published there, or an upload arrived changed.
        """
        uri = self.prefix(record.stage, record.stage_key)
        for leftover in (folder / "files.json", folder / record.filename):
            leftover.unlink(missing_ok=True)
        entries = list_files(folder)
        files_json = [entry.model_dump() for entry in entries]
        final = record.model_copy(update={"files_digest": digest_of(files_json), "uri": uri})
        published = self.find(type(record), record.stage_key)
        if published is not None:
            if published.digest != final.digest:
                raise IntegrityError(
                    "Other content is already published for this request; nothing was overwritten.",
                    expected=f"digest {published.digest}",
                    found=f"digest {final.digest}",
                    where=uri,
                    fix="if the published one is wrong, remove its prefix and rerun the stage",
                )
            shutil.rmtree(folder, ignore_errors=True)
            return published
        (folder / "files.json").write_text(json.dumps(files_json, indent=1) + "\n", encoding="utf-8")
        if self.is_local:
            self._move_into_place(folder, Path(uri))
            write_atomically(Path(uri) / record.filename, final.to_json())
        else:
            self._upload(folder, uri, entries)
            filesystem, path = open_filesystem(f"{uri}/{record.filename}")
            filesystem.pipe_file(path, final.to_json())
            shutil.rmtree(folder, ignore_errors=True)
        return final

    def files(self, record: Record) -> tuple[FileEntry, ...]:
        """Return the file list of a published record, checked against the record.

        Raises:
            IntegrityError: ``files.json`` is not the list the record was published with.
        """
        listed = json.loads(read_bytes(f"{record.uri}/files.json"))
        if digest_of(listed) != record.files_digest:
            raise IntegrityError(
                "The file list was changed after it was published.",
                expected=f"digest {record.files_digest}",
                found=f"digest {digest_of(listed)}",
                where=f"{record.uri}/files.json",
                fix="remove this prefix and rerun the stage",
            )
        return tuple(FileEntry.model_validate(entry) for entry in listed)

    def fetch(self, record: Record, under: str = "") -> Path:
        """Return a local folder with a record's files (those whose path starts with ``under``), verified by sha256.

        A local store's files are verified in place; others are copied to the cache, once.

        Raises:
            IntegrityError: a file is missing, truncated or changed.
        """
        entries = [entry for entry in self.files(record) if entry.path.startswith(under)]
        if is_local(record.uri):
            root = local_path_of(record.uri)
        else:
            root = cache_dir() / record.stage / record.digest
            filesystem, base = open_filesystem(record.uri)
            for entry in entries:
                target = root / entry.path
                if not (target.is_file() and target.stat().st_size == entry.size_bytes):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    partial = target.with_name(f".{target.name}.{os.getpid()}")
                    filesystem.get_file(f"{base}/{entry.path}", str(partial))
                    partial.replace(target)
        for entry in entries:
            verify_file(root / entry.path, entry, where=f"{record.uri}/{entry.path}")
        return root

    def _move_into_place(self, folder: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # files of an attempt that died before its record was written
            shutil.rmtree(target)
        try:
            folder.replace(target)
        except OSError:  # another filesystem
            shutil.copytree(folder, target)
            shutil.rmtree(folder, ignore_errors=True)

    def _upload(self, folder: Path, uri: str, entries: tuple[FileEntry, ...]) -> None:
        filesystem, base = open_filesystem(uri)
        for relative in (*(entry.path for entry in entries), "files.json"):
            filesystem.put_file(str(folder / relative), f"{base}/{relative}")
        for entry in entries:
            size = filesystem.size(f"{base}/{entry.path}")
            if size != entry.size_bytes:
                raise IntegrityError(
                    "An upload arrived with another size.",
                    expected=f"{entry.size_bytes} bytes",
                    found=f"{size} bytes",
                    where=f"{uri}/{entry.path}",
                    fix="rerun the stage: nothing was published",
                )


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
