"""What was pulled, kept by content: one copy of the same files, whatever registry and name they were asked for by.

``{cache}/models/content/{digest of the file list}/`` holds verified copies, ``{cache}/models/refs/{registry}/{name}/``
what each alias last meant and what each version is. A copy takes its place whole, so that any number of processes may
pull at once; a cache that cannot be written serves what it holds.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from softalign.artifacts import FileEntry, Frozen, digest_of
from softalign.config.sizes import bytes_of
from softalign.credentials import without_credentials
from softalign.errors import IntegrityError
from softalign.registry.connection import HTTP, SQLITE
from softalign.registry.versions import Reference, RegisteredFiles
from softalign.store.files import cache_dir, private_cache, verify_file, write_atomically

LIMIT_VARIABLE = "SOFTALIGN_CACHE_LIMIT"
DEFAULT_LIMIT = "10GB"
IN_USE_S = 3600.0
"""What was asked for so lately stays, whatever the limit: who asked may be reading it."""
LOCK_PATIENCE_S = 60.0
"""So long one process waits for another's download of the same files; then it fetches them itself."""
PLACING_ATTEMPTS = 50
LITTER = frozenset({".DS_Store", "desktop.ini", "Thumbs.db"})
"""What file managers leave in folders that somebody looked into."""
_HERE = {"127.0.0.1", "::1", "0.0.0.0"}  # noqa: S104  # compared with, not bound to
_PORTS = {"http": 80, "https": 443}
logger = logging.getLogger(__name__)


class PulledReference(Frozen):
    """What an alias or number of a registry meant when it was last asked for.

    Attributes:
        registry: its address, without credentials.
    """

    registry: str
    name: str
    version: int
    files: tuple[FileEntry, ...]

    @property
    def digest(self) -> str:
        """Of the file list: the name of the content's folder."""
        return content_digest(self.files)


def limit_bytes() -> int:
    """Return how much of pulled versions is kept (``SOFTALIGN_CACHE_LIMIT``, or 10 GB).

    Raises:
        ConfigError: the variable holds no size.
    """
    return bytes_of(os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT, LIMIT_VARIABLE)


def content_digest(files: tuple[FileEntry, ...]) -> str:
    """Return the name under which files are kept: a digest of their names, sizes and sha256."""
    return digest_of([entry.model_dump() for entry in files])[:32]


def one_address(uri: str) -> str:
    """Return one spelling of a registry's address for all that mean the same registry; without credentials."""
    if uri.startswith(SQLITE):
        return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}"
    if not uri.startswith(HTTP):
        return without_credentials(uri)
    parts = urlsplit(without_credentials(uri))
    host = (parts.hostname or "").lower().rstrip(".")
    port = "" if parts.port in {None, _PORTS[parts.scheme]} else f":{parts.port}"
    return f"{parts.scheme}://{'localhost' if host in _HERE else host}{port}{parts.path.rstrip('/')}"


class PulledCache:
    """The cache as one registry's consumers see it.

    Args:
        root: ``{cache}/models``.
        registry: an address, as ``one_address`` returns it.
    """

    def __init__(self, root: Path, registry: str) -> None:
        self.root, self.registry = root, registry

    @classmethod
    def of(cls, uri: str) -> Self:
        """Return the cache of this process for a registry."""
        return cls(cache_dir() / "models", one_address(uri))

    def folder(self, files: tuple[FileEntry, ...]) -> Path:
        """Return where files with this content are, or would be."""
        return self.root / "content" / content_digest(files)

    def intact(self, files: tuple[FileEntry, ...]) -> Path | None:
        """Return the folder of files whose every byte is right, noting the use; None where there is none."""
        folder = self.folder(files)
        if not is_intact(folder, files):
            return None
        with suppress(OSError):  # a cache that cannot be written keeps no order of use
            os.utime(folder)
        return folder

    def recall(self, wanted: Reference) -> PulledReference | None:
        """Return what a reference last meant, where the files of that are still whole; None else."""
        try:
            found = PulledReference.model_validate_json(self._path(wanted).read_bytes())
        except (OSError, ValueError):
            return None
        return found if self.intact(found.files) else None

    def known(self, name: str) -> str:
        """Return, for people, which references of a model can be had from the cache."""
        refs = sorted(self._path(Reference(name=name, version=1)).parent.glob("*.json"))
        return ", ".join(f"{name}{path.stem.replace('alias-', '@').replace('version-', '/')}" for path in refs)

    def names_ever_pulled(self) -> set[str]:
        """Return the file names of all versions that the cache knows of, from any registry."""
        names: set[str] = set()
        for path in (self.root / "refs").glob("*/*/*.json"):
            with suppress(OSError, ValueError):  # another process is at work there
                names |= {entry.path for entry in PulledReference.model_validate_json(path.read_bytes()).files}
        return names

    def note(self, wanted: Reference, found: RegisteredFiles) -> None:
        """Keep what a reference means; that its version, asked for by number, means the same is kept, too."""
        kept = PulledReference(registry=self.registry, name=found.name, version=found.version, files=found.files)
        data = kept.model_dump_json(indent=1).encode()
        for reference in {wanted, Reference(name=found.name, version=found.version)}:
            path = self._path(reference)
            try:
                if not path.is_file() or path.read_bytes() != data:
                    write_atomically(path, data)
            except OSError as error:
                logger.info("%s cannot be noted in the cache for use without the registry: %s", reference, error)

    def put(self, made: Path, files: tuple[FileEntry, ...]) -> Path:
        """Give a folder with verified files its place, and forget what is over the limit; return the place."""
        target = self.folder(files)
        place_whole(made, target, files)
        os.utime(target)
        self._forget_oldest()
        return target

    @contextmanager
    def downloading(self, files: tuple[FileEntry, ...]) -> Iterator[Path]:
        """Yield an empty folder to download to, one process at a time for the same files where that can be had."""
        private_cache()
        self.root.mkdir(parents=True, exist_ok=True)
        made = self.root / f".download-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with one_at_a_time(self.lock(content_digest(files))):
            made.mkdir()
            try:
                yield made
            finally:
                shutil.rmtree(made, ignore_errors=True)

    def lock(self, name: str) -> Path:
        """Return the file by which the processes of this machine take turns at something."""
        return self.root / ".locks" / f"{name}.lock"

    def _path(self, wanted: Reference) -> Path:
        name = f"alias-{wanted.alias}.json" if wanted.alias else f"version-{wanted.version}.json"
        return self.root / "refs" / digest_of(self.registry)[:16] / wanted.name / name

    def _forget_oldest(self) -> None:
        limit = limit_bytes()
        contents = sorted(_contents(self.root), key=lambda found: -found[1])
        before, now = 0, time.time()
        for folder, used_at, size_bytes in contents:
            before += size_bytes
            if before > limit and now - used_at > IN_USE_S:
                remove_folder(folder)
                before -= size_bytes
        for left in self.root.glob(".download-*"):  # of a process that was killed
            with suppress(OSError):
                if now - left.stat().st_mtime > IN_USE_S:
                    shutil.rmtree(left, ignore_errors=True)


def _contents(root: Path) -> Iterator[tuple[Path, float, int]]:
    """Yield the kept folders: when each was last used (Unix seconds), and its size in bytes."""
    for folder in (root / "content").glob("*"):
        with suppress(OSError):  # another process removes it
            size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            yield folder, folder.stat().st_mtime, size_bytes


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock, or go on without it: it spares downloads; that content is placed whole is what keeps it right."""
    lock = FileLock(path, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=LOCK_PATIENCE_S, poll_interval=0.05)
    except (Timeout, OSError, NotImplementedError) as error:
        logger.debug("fetching without a lock: %s", error)
    try:
        yield
    finally:
        with suppress(OSError):  # who waits for it may hold the old file beside a new one's holder: that is allowed
            path.unlink()
        lock.release()


def is_intact(folder: Path, files: tuple[FileEntry, ...]) -> bool:
    """Return whether a folder holds just these files, byte for byte, and no links."""
    names = names_in(folder)
    if set(names) != {entry.path for entry in files} or any((folder / name).is_symlink() for name in names):
        return False
    try:
        for entry in files:
            verify_file(folder / entry.path, entry, str(folder))
    except (IntegrityError, OSError):  # another process may be replacing it
        return False
    return True


def names_in(folder: Path) -> list[str]:
    """Return the files and links below a folder, with slashes; without what file managers leave."""
    paths = [
        Path(above) / name
        for above, folders, files in os.walk(folder)
        for name in [*files, *(one for one in folders if (Path(above) / one).is_symlink())]
    ]
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.name not in LITTER)


def place_whole(made: Path, target: Path, files: tuple[FileEntry, ...]) -> None:
    """Let a finished folder take a place, whatever folder is there, any number of processes doing so at once.

    Raises:
        OSError: the place cannot be renamed to or from.
    """
    for attempt in range(PLACING_ATTEMPTS):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            made.rename(target)
            return
        except OSError:
            if is_intact(target, files):  # another process was sooner
                return
            if attempt == PLACING_ATTEMPTS - 1 or target.is_file():
                raise
            if target.is_dir():
                remove_folder(target)
            time.sleep(0.01)  # a virus scanner holds new files for a moment


def remove_folder(folder: Path) -> None:
    """Remove a folder, at once for those who look: it is renamed first. Another process may do so, too."""
    aside = folder.with_name(f".gone-{uuid.uuid4().hex[:8]}")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)
