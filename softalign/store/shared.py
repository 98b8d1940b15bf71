"""Single files that datasets share, each named by its content, and the small indexes that list their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from softalign.artifacts import FileEntry
from softalign.errors import IntegrityError
from softalign.store.files import (
    create_file,
    fetch_verified,
    file_entry,
    is_local,
    not_as_published,
    on_filesystem_of,
    open_filesystem,
    private_cache,
    read_bytes,
    sha256_of_file,
)
from softalign.store.limited_cache import LimitedCache
from softalign.store.reaching import reaching
from softalign.store.traffic import note_read, note_written


class SharedFiles:
    """What a store holds for all datasets: single files below ``{uri}/encoded``, named by their content."""

    uri: str

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder of this machine."""
        return is_local(self.uri)

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
                on_filesystem_of(Path(target).parent, path).replace(target)
            elif not filesystem.exists(target_path):
                filesystem.put_file(str(path), target_path)
        note_written(entry.size_bytes)
        path.unlink(missing_ok=True)
        return entry

    def shared_sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of the files in a folder below ``{store}/encoded``, by name."""
        uri = f"{self.uri}/encoded/{folder}"
        filesystem, path = open_filesystem(uri)
        with reaching(uri):
            filesystem.invalidate_cache()
            entries = filesystem.ls(path, detail=True) if filesystem.isdir(path) else []
        return {str(entry["name"]).rpartition("/")[2]: int(entry["size"]) for entry in entries}

    def fetch_shared(self, entry: FileEntry) -> Path:
        """Return a local path of a shared file, verified by sha256.

        Raises:
            IntegrityError: the file is missing, truncated or changed.
            StorageUnavailableError: the store did not answer.
        """
        uri = f"{self.uri}/{entry.path}"
        local = Path(uri) if self.is_local else private_cache() / "encoded" / entry.sha256
        fetch_verified(entry, uri, local, self._fix)
        return local

    def fetch_shared_within(self, entry: FileEntry, limit: int | None) -> Path | None:
        """Return a local path of a shared file as ``fetch_shared``; None where this machine has no room to keep it.

        Args:
            entry: of the file.
            limit: bytes that copies of a remote store's shared files may take together; None: any number.

        Raises:
            IntegrityError: the file is missing, truncated or changed.
            StorageUnavailableError: the store did not answer.
        """
        if self.is_local or limit is None:
            return self.fetch_shared(entry)
        cache = LimitedCache(private_cache() / "encoded", limit)
        if cache.admit(entry) is None:
            return None
        with cache.fetching(entry):
            return self.fetch_shared(entry)

    def read_shared_ranges(self, wanted: Sequence[tuple[FileEntry, int, int]]) -> list[bytes]:
        """Return parts of shared files, from a first byte to before a last one; all are asked for at once.

        Raises:
            IntegrityError: a file is missing, or ends before.
            StorageUnavailableError: the store did not answer.
        """
        if not wanted:
            return []
        filesystem, root = open_filesystem(self.uri)
        ends = [min(end, entry.size_bytes) for entry, _, end in wanted]
        starts = [start for _, start, _ in wanted]
        found = []
        with reaching(self.uri):
            parts = filesystem.cat_ranges([f"{root}/{entry.path}" for entry, _, _ in wanted], starts, ends)
        for (entry, start, _), end, part in zip(wanted, ends, parts, strict=True):
            if isinstance(part, FileNotFoundError):
                raise self.damaged(entry, found="no file") from part
            with reaching(f"{self.uri}/{entry.path}"):
                if isinstance(part, Exception):
                    raise part
            if len(part) != end - start:
                raise self.damaged(entry, found=f"{len(part)} bytes from byte {start} on, in place of {end - start}")
            found.append(bytes(part))
        note_read(sum(map(len, found)))
        return found

    def damaged(self, entry: FileEntry, found: str) -> IntegrityError:
        """Return the error of a shared file that is not what was published."""
        return not_as_published(entry, found, f"{self.uri}/{entry.path}", self._fix)

    @property
    def _fix(self) -> str:
        return f"remove this file and {self.uri}/encode, then rerun: what is missing is encoded again"

    def create_shard_index(self, relative: str, data: bytes) -> bytes:
        """Create a shard's index, a JSON file below ``{store}/encoded``, unless there is one; return what it holds."""
        uri = f"{self.uri}/encoded/{relative}"
        create_file(uri, data)
        return read_bytes(uri)

    def read_shard_indexes(self, folder: str) -> Iterator[bytes]:
        """Yield the content of the shard indexes in a folder below ``{store}/encoded``, sorted by name."""
        uri = f"{self.uri}/encoded/{folder}"
        names = sorted(name for name in self.shared_sizes(folder) if name.endswith(".json") and name[0] != ".")
        filesystem, path = open_filesystem(uri)
        if names:
            with reaching(uri):
                contents = filesystem.cat([f"{path}/{name}" for name in names])
            note_read(sum(map(len, contents.values())))
            yield from (bytes(contents[name]) for name in sorted(contents))
