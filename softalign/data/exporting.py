"""A dataset as plain WebDataset tars, captions included wherever the dataset has them, for readers that know no index.

Each tar is written whole or not at all, so an export that was stopped goes on with those that are missing.
``export.json`` beside them says what they are of: it comes first, and says at the end that all are there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import ValidationError

from softalign.artifacts import DatasetManifest, Frozen
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.shards import IndexRow
from softalign.data.curation.tars import ShardTar, tar_bytes, texts_of
from softalign.errors import ConfigError, MissingInputError
from softalign.processes.reporter import Reporter
from softalign.store.files import (
    is_local,
    local_path_of,
    open_filesystem,
    overwrite_file,
    read_bytes,
    require_folder_place,
)
from softalign.store.reaching import reaching
from softalign.store.store import Store
from softalign.store.traffic import note_written

EXPORT_FILENAME = "export.json"
_UNFINISHED = re.compile(r"\.(shard-\d{6,}\.tar|export\.json)\.\d+\.[0-9a-f]{8}")
"""What ``replacing`` leaves of a local file when it is killed."""


class Export(Frozen):
    """What tars are an export of.

    Attributes:
        is_complete: all of them are there.
    """

    schema_version: Literal[1] = 1
    dataset: str
    stage_key: str
    digest: str
    num_samples: int
    num_shards: int
    is_complete: bool = False

    @classmethod
    def of(cls, dataset: DatasetManifest) -> Export:
        """Return what the export of a dataset says while it is not complete."""
        return cls(
            dataset=dataset.name,
            stage_key=dataset.stage_key,
            digest=dataset.digest,
            num_samples=dataset.num_samples,
            num_shards=dataset.num_shards,
        )


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export; ``num_written`` tars were not there before."""

    uri: str
    num_shards: int
    num_written: int


def export_dataset(dataset: DatasetManifest, target: str, store: Store) -> Exported:
    """Write a dataset's shards, with all members, into a folder, or go on with that.

    A tar that is there with the right size stays.

    Args:
        dataset: any published dataset.
        target: a local folder, or a URI such as ``s3://bucket/folder``.
        store: any; it need not be the dataset's own.

    Raises:
        ConfigError: something else lies there, or it cannot be written to.
        IntegrityError: a file of the dataset is not what was published.
        StorageUnavailableError: a store did not answer.
    """
    place = str(local_path_of(target).absolute()) if is_local(target) else target.rstrip("/")
    export, sizes, num_written = Export.of(dataset), _sizes_at(place), 0
    _require_same(place, sizes, export)
    _remove_unfinished(place)
    _keep(place, export)
    with Reporter("export", "shards", dataset.num_shards) as shards:
        for index, (name, rows) in enumerate(OpenedDataset(dataset, store).shards()):
            shards.reach(index)
            if sizes.get(f"{name}.tar") != _size_of(rows):
                _write(f"{place}/{name}.tar", rows, store.fetch_file(dataset, f"{name}.tar"))
                num_written += 1
        shards.reach(dataset.num_shards)
    _keep(place, export.model_copy(update={"is_complete": True}))
    return Exported(place, dataset.num_shards, num_written)


def _keep(place: str, export: Export) -> None:
    overwrite_file(f"{place}/{EXPORT_FILENAME}", export.model_dump_json(indent=1).encode() + b"\n")


def _sizes_at(place: str) -> dict[str, int]:
    """Return what lies in a folder, by name; without what a killed export was writing."""
    if is_local(place):
        require_folder_place(Path(place))
    filesystem, path = open_filesystem(place)
    with suppress(MissingInputError), reaching(place):
        filesystem.invalidate_cache()
        found = {str(entry["name"]).rstrip("/"): int(entry["size"] or 0) for entry in filesystem.ls(path, detail=True)}
        inside = {name.rpartition("/")[2]: size for name, size in found.items() if name != path.rstrip("/")}
        return {name: size for name, size in inside.items() if not _UNFINISHED.fullmatch(name)}
    return {}


def _remove_unfinished(place: str) -> None:
    names = os.listdir(place) if is_local(place) and Path(place).is_dir() else []
    for name in filter(_UNFINISHED.fullmatch, names):
        (Path(place) / name).unlink(missing_ok=True)


def _require_same(place: str, sizes: dict[str, int], export: Export) -> None:
    if not sizes:
        return
    found = "files of others"
    with suppress(MissingInputError, ValidationError):
        there = Export.model_validate_json(read_bytes(f"{place}/{EXPORT_FILENAME}"))
        if there.digest == export.digest:
            return
        found = f"an export of {there.dataset}, stage key {there.stage_key[:16]}"
    raise ConfigError(
        "The place of the export is taken.",
        expected=f"a new or empty folder, or an export of {export.dataset}, stage key {export.stage_key[:16]}",
        found=found,
        where=place,
        fix="name another folder",
    )


def _size_of(rows: tuple[IndexRow, ...]) -> int:
    return tar_bytes(size for row in rows for size in (row.size_bytes, *map(len, texts_of(row).values())))


def _write(uri: str, rows: tuple[IndexRow, ...], shard: Path) -> None:
    with reaching(uri), _arriving(uri) as made, shard.open("rb") as images:
        tar = ShardTar(made)
        for row in rows:
            images.seek(row.offset_bytes)
            tar.append(row, images.read(row.size_bytes))
        tar.close()
        note_written(made.stat().st_size)


@contextmanager
def _arriving(uri: str) -> Iterator[Path]:
    """Yield a local path; a tar that appears there is at the URI, whole, once the block is left."""
    if is_local(uri):
        yield Path(uri)
        return
    filesystem, path = open_filesystem(uri)
    with TemporaryDirectory(prefix="softalign-") as folder:
        made = Path(folder) / path.rpartition("/")[2]
        yield made
        filesystem.put_file(str(made), path)
