"""Files by path or URI: hashing, atomic writes, reading, verified copies, and errors that say what to do.

The one module that talks to filesystems (fsspec); everything above it sees this library's errors only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from softalign.artifacts import FileEntry
from softalign.errors import ConfigError, IntegrityError, MissingInputError
from softalign.store.reaching import reaching
from softalign.store.traffic import note_read, note_written

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def sha256_of_file(path: Path) -> str:
    """Return the sha256 hex digest of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a local file so that a reader sees the old content or the new one, never a part."""
    with replacing(path) as made:
        made.write_bytes(data)


@contextmanager
def replacing(path: Path, *, is_synced: bool = True, drops_folder: bool = False) -> Iterator[Path]:
    """Yield a hidden place beside a local path; what the block makes there, a file or folder, takes the path whole.

    It is removed if the block raises.

    Args:
        path: its folder is made if absent.
        is_synced: it, and its new name, are on the disk before the block is left. False where readers check content
            and make it anew, so that only a power cut can cost it.
        drops_folder: a folder at the path is removed, once the new one is whole; else the path must be free for one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        yield made
        if is_synced:
            for place in (*made.rglob("*"), made):
                _sync(place)
        if drops_folder and path.is_dir():
            shutil.rmtree(path)
        made.replace(path)
    finally:
        if made.is_dir():
            shutil.rmtree(made, ignore_errors=True)
        made.unlink(missing_ok=True)
    if is_synced:
        _sync(path.parent)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # cannot be opened there
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_local(uri: str) -> bool:
    """Return whether a URI names a local path."""
    return "://" not in uri or uri.startswith("file://")


def local_path_of(uri: str) -> Path:
    """Return the local path that a plain path or ``file://`` URI names."""
    return Path(uri.removeprefix("file://"))


def link_of(uri: str) -> str:
    """Return a URI a browser or tool can open: local paths as ``file://``, others unchanged."""
    return local_path_of(uri).absolute().as_uri() if is_local(uri) else uri


def cache_dir() -> Path:
    """Return the folder for cached copies and work in progress (``SOFTALIGN_CACHE`` or ``~/.cache/softalign``)."""
    return Path(os.environ.get("SOFTALIGN_CACHE") or Path.home() / ".cache" / "softalign")


def private_cache() -> Path:
    """Return the cache, made if it is not there, closed to others of this machine."""
    return private_folder(cache_dir())


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner can open, whatever the umask says; close one of this user's that is open."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    found = path.stat()
    if hasattr(os, "getuid") and found.st_uid == os.getuid() and found.st_mode & 0o077:
        path.chmod(0o700)
    return path


def require_folder_place(path: Path) -> None:
    """Refuse a local path that neither is a folder nor can become one, before any work is done for it.

    Raises:
        ConfigError: it, or what lies above it, is a file.
    """
    nearest = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise ConfigError(
            "This place is taken by a file.", expected="a folder, or none yet", found=str(nearest), where=str(path)
        )


def require_free_folder(path: Path) -> None:
    """Refuse a local path where something would be lost, before any work is done for it.

    Raises:
        ConfigError: it is a file, or a folder that is not empty.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError("The output folder is taken.", expected="a new or empty folder", where=str(path))


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
    with reaching(uri):
        data = bytes(filesystem.cat_file(path))
    note_read(len(data))
    return data


def list_files(root: Path, known: Iterable[FileEntry] = ()) -> tuple[FileEntry, ...]:
    """Return the entries of all regular files below a local folder, by path.

    Args:
        root: the folder.
        known: entries of some of them, which are not read.
    """
    entries = {entry.path: entry for entry in known}
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return tuple(entries.get(name) or file_entry(root / name, name) for name in names)


def file_entry(path: Path, name: str) -> FileEntry:
    """Return the entry of a local file, listed under a name."""
    return FileEntry(path=name, size_bytes=path.stat().st_size, sha256=sha256_of_file(path))


def create_file(uri: str, data: bytes) -> bool:
    """Create a file with this content unless one exists; return whether it was created. Of several one creates it."""
    filesystem, path = open_filesystem(uri)
    if is_local(uri):
        with reaching(uri):
            is_created = _create_local(local_path_of(uri), data)
        if is_created:
            note_written(len(data))
        return is_created
    with reaching(uri):
        try:
            filesystem.pipe_file(path, data, mode="create")
        except OSError:  # a failed precondition has no class of its own in s3fs
            filesystem.invalidate_cache()
            if not filesystem.exists(path):
                raise
            return False
    note_written(len(data))
    return True


def _create_local(path: Path, data: bytes) -> bool:
    """Create a local file whole, by a link: unlike a rename it never replaces what another process made meanwhile."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        made.write_bytes(data)
        _sync(made)
        os.link(made, path)
    except FileExistsError:
        return False
    finally:
        made.unlink(missing_ok=True)
    _sync(path.parent)
    return True


def overwrite_file(uri: str, data: bytes) -> None:
    """Give a file this content, whatever it held; a reader sees the old content or the new one.

    Raises:
        StorageUnavailableError: the store did not answer.
    """
    filesystem, path = open_filesystem(uri)
    with reaching(uri):
        if is_local(uri):
            with replacing(local_path_of(uri), is_synced=False) as made:
                made.write_bytes(data)
        else:
            filesystem.pipe_file(path, data)


def on_filesystem_of(parent: Path, path: Path) -> Path:
    """Return a file or folder with the same content that can be renamed into ``parent``."""
    if path.stat().st_dev == parent.stat().st_dev:
        return path
    copy = parent / f".copy.{uuid.uuid4().hex[:8]}"
    if path.is_dir():
        shutil.copytree(path, copy)
    else:
        shutil.copyfile(path, copy)
    return copy


RESTORE = "copy it back, or remove the output that it belongs to and run that stage again"


def fetch_verified(entry: FileEntry, uri: str, local: Path, fix: str = RESTORE) -> None:
    """Make sure that a local path holds a stored file's bytes; a damaged cached copy is fetched again.

    Raises:
        IntegrityError: the stored file is missing, truncated or changed.
        StorageUnavailableError: the store did not answer.
    """
    if is_local(uri):
        note_read(entry.size_bytes)
    elif not _matches(local, entry):
        filesystem, path = open_filesystem(uri)
        try:
            with replacing(local, is_synced=False) as made, reaching(uri):
                filesystem.get_file(path, str(made))
            note_read(entry.size_bytes)
        except MissingInputError:
            local.unlink(missing_ok=True)
    verify_file(local, entry, where=uri, fix=fix)


def _matches(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.size_bytes and sha256_of_file(path) == entry.sha256


def verify_file(path: Path, entry: FileEntry, where: str, fix: str = RESTORE) -> None:
    """Check a local file against its entry.

    Raises:
        IntegrityError: the file is missing, truncated or changed.
    """
    found = "no file" if not path.is_file() else state_text(path.stat().st_size, sha256_of_file(path))
    if found != state_text(entry.size_bytes, entry.sha256):
        raise not_as_published(entry, found, where, fix)


def not_as_published(entry: FileEntry, found: str, where: str, fix: str = RESTORE) -> IntegrityError:
    """Return the error of a stored file; ``found`` is its ``state_text``, or says why it has none."""
    what, expected = "A stored file is not what was published.", state_text(entry.size_bytes, entry.sha256)
    return IntegrityError(what, expected=expected, found=found, where=where, fix=fix)


def state_text(size_bytes: int, sha256: str) -> str:
    """Return how a file's content is told: so that two are the same if their texts are."""
    return f"{size_bytes} bytes, sha256 {sha256}"
