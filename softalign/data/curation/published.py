"""A published dataset's rows, rejections and image bytes, read where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from softalign.artifacts import DatasetManifest
from softalign.data.curation.rejections import Rejection
from softalign.data.curation.shards import IndexRow, read_index, read_rejections, shard_name
from softalign.errors import IntegrityError
from softalign.store.files import RESTORE, is_local, local_path_of, open_filesystem
from softalign.store.reaching import reaching
from softalign.store.store import Store
from softalign.store.traffic import note_read

REJECTED_FILENAME = "rejected.parquet"


@dataclass(frozen=True, slots=True)
class Placed:
    """A sample's row and the shard that holds it."""

    row: IndexRow
    shard: str


class OpenedDataset:
    """Reads a published dataset; its lists are verified by sha256, single images by their own digest.

    Args:
        manifest: of the dataset.
        store: any; it need not be the dataset's own.
    """

    def __init__(self, manifest: DatasetManifest, store: Store) -> None:
        self.manifest = manifest
        self._store = store

    def shards(self) -> Iterator[tuple[str, tuple[IndexRow, ...]]]:
        """Yield each shard's name and rows.

        Raises:
            IntegrityError: an index is not what was published.
        """
        for index in range(self.manifest.num_shards):
            name = shard_name(index)
            yield name, read_index(self._store.fetch_file(self.manifest, f"{name}.parquet"))

    def samples(self) -> Iterator[Placed]:
        """Yield all samples in order."""
        for name, rows in self.shards():
            yield from (Placed(row, name) for row in rows)

    def rejections(self) -> tuple[Rejection, ...]:
        """Return why what is missing is missing."""
        return tuple(read_rejections(self._store.fetch_file(self.manifest, REJECTED_FILENAME)))

    def image(self, sample: Placed) -> bytes:
        """Return a sample's image file, of which no more than its own bytes are read.

        Raises:
            IntegrityError: the shard does not hold what its index says.
            StorageUnavailableError: the store did not answer.
        """
        row, uri = sample.row, f"{self.manifest.uri}/{sample.shard}.tar"
        data = _read_part(uri, row.offset_bytes, row.size_bytes)
        note_read(len(data))
        found = hashlib.sha256(data).hexdigest()
        if found != row.image_digest:
            raise IntegrityError(
                "An image of a shard is not what was published.",
                expected=f"sha256 {row.image_digest}",
                found=f"sha256 {found}",
                where=f"{uri}: {row.key}",
                fix=RESTORE,
            )
        return data


def _read_part(uri: str, start: int, size: int) -> bytes:
    """Return a part of a file; a local one is opened without fsspec, which takes longer than reading an image."""
    with reaching(uri):
        if is_local(uri):
            with local_path_of(uri).open("rb", buffering=0) as file:
                file.seek(start)
                return file.read(size)
        filesystem, path = open_filesystem(uri)
        return bytes(filesystem.cat_file(path, start=start, end=start + size))
