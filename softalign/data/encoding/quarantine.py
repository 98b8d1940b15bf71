"""Shards of a dataset that are damaged: named, and left out as far as a recipe allows.

An encoded set without them has another key than the whole one, so it never passes for it: once the shards are mended
the same command makes the whole one. ``quarantine.json`` beside the dataset says what is damaged, and which sets were
made without it; no digest covers it.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from softalign.artifacts import DatasetManifest, EncodedManifest, Frozen, canonical_json, digest_of
from softalign.data.curation.shards import IndexRow, read_index
from softalign.errors import IntegrityError, MissingInputError
from softalign.store.files import overwrite_file, read_bytes
from softalign.store.store import Store

logger = logging.getLogger(__name__)
FILENAME = "quarantine.json"
LOST_FILENAME = "lost.json"
"""Among an encoded set's files: the shards that it was made without."""


class DamagedFile(Frozen):
    """A file of a dataset that is not what was published; both states as size and sha256."""

    path: str
    expected: str
    found: str


class Quarantine(Frozen):
    """What is damaged of a dataset.

    Attributes:
        files: that are damaged.
        made_without: the keys of the sets that were encoded without their shards, by the keys of the whole ones.
    """

    files: tuple[DamagedFile, ...] = ()
    made_without: dict[str, str] = Field(default_factory=dict)


def repair(dataset: DatasetManifest, store: Store, num_lost: int | None = None) -> str:
    """Return what can be done about a damaged file of a dataset.

    Args:
        dataset: whose file it is.
        store: where it lies.
        num_lost: samples that would be lost; None: at most those of one shard, which all but the last are as large as.
    """
    prefix = store.prefix(dataset.stage, dataset.stage_key)
    remove = f"`rm -r {prefix}`" if store.is_local else f"remove {prefix}"
    fix = f"copy it back; or {remove}, then `softalign curate RECIPE`, which makes the same again"
    if num_lost is None:
        share = 1 / (dataset.num_shards - 1) if dataset.num_shards > 1 else 1.0
    else:
        share = num_lost / dataset.num_samples
    if share < 1:
        share = math.ceil(share * 10_000) / 10_000
        fix += f"; or go on without its samples: --set runtime.max_corrupt_share={share:g}"
    return fix


def stand_in(dataset: DatasetManifest | None, key: str, store: Store) -> EncodedManifest | None:
    """Return the set that was encoded without a dataset's damaged shards in place of a whole one; None: there is none.

    Raises:
        StorageUnavailableError: the store did not answer.
    """
    noted = _read(dataset, store).made_without.get(key) if dataset is not None else None
    return store.find(EncodedManifest, noted) if noted is not None else None


@dataclass
class Losses:
    """Looks for damaged shards of a dataset while it is encoded.

    Attributes:
        dataset: what is encoded.
        store: where it lies.
        max_share: of its samples that may be lost; 0: the first damaged file ends the stage.
    """

    dataset: DatasetManifest
    store: Store
    max_share: float
    _damaged: dict[str, DamagedFile] = field(default_factory=dict)
    _whole: set[str] = field(default_factory=set)
    _num_left: int = 0

    @property
    def num_shards(self) -> int:
        """How many shards are left out."""
        return len(self._damaged)

    @property
    def num_samples(self) -> int:
        """How many samples that are."""
        return self.dataset.num_samples - self._num_left

    def rows_of(self, name: str) -> tuple[IndexRow, ...]:
        """Return a shard's rows; none where its index is damaged.

        Raises:
            IntegrityError: it is damaged, and nothing may be lost.
        """
        path = self._sound(f"{name}.parquet", name)
        rows = read_index(path) if path is not None else ()
        self._num_left += len(rows)
        return rows

    def leave_out(self, shards: Iterable[tuple[str, tuple[IndexRow, ...]]], lacks: Callable[[str], bool]) -> set[str]:
        """Return the names of all shards that are lost, once their images have been looked at too.

        Args:
            shards: their names and rows.
            lacks: whether an image, by digest, still has to be encoded.

        Raises:
            IntegrityError: more samples are lost than may be, or all.
        """
        for name, rows in shards:
            if not any(lacks(row.image_digest) for row in rows):
                continue
            if self.max_share == 0:
                self._whole.add(f"{name}.tar")  # or the encoding ends
            elif self._sound(f"{name}.tar", name) is None:
                self._num_left -= len(rows)
        number, total = self.num_samples if self._damaged else 0, self.dataset.num_samples
        if number > self.max_share * total or number == total:
            raise IntegrityError(
                "Too much of the dataset is damaged.",
                expected=f"at most {self.max_share:.2%} of {total:,} samples lost (runtime.max_corrupt_share)",
                found=f"{number:,} lost: " + "; ".join(f"{d.path}: {d.found}" for d in self._damaged.values())[:2000],
                where=self.dataset.uri,
                fix=repair(self.dataset, self.store, number),
            )
        return set(self._damaged)

    def key_of(self, key: str) -> str:
        """Return the key that the set is published under: another one where something is lost."""
        paths = sorted(file.path for file in self._damaged.values())
        return digest_of([key, "without", *paths]) if paths else key

    def note(self, key: str, output: Path) -> None:
        """Put the list of what is lost among the set's files, and say in the dataset's quarantine what there is.

        All that is left is encoded by now.

        Args:
            key: of the whole set.
            output: the folder of the files.
        """
        before, now = _read(self.dataset, self.store), {file.path: file for file in self._damaged.values()}
        files = {file.path: file for file in before.files if file.path not in self._whole} | now
        made = {of: without for of, without in before.made_without.items() if of != key}
        made |= {key: self.key_of(key)} if now else {}
        found = Quarantine(files=tuple(files[path] for path in sorted(files)), made_without=made)
        if found != before:
            content = found.model_dump_json(indent=1).encode() + b"\n"
            overwrite_file(_uri(self.dataset, self.store), content)
        if now:
            lost = [{"path": path, "expected": now[path].expected} for path in sorted(now)]
            (output / LOST_FILENAME).write_bytes(canonical_json(lost))
            request, of_this = (self.store.request_path("encode", one) for one in (key, self.key_of(key)))
            if request.is_file():
                shutil.copyfile(request, of_this)

    def _sound(self, filename: str, name: str) -> Path | None:
        try:
            path = self.store.fetch_file(self.dataset, filename, repair(self.dataset, self.store))
        except IntegrityError as error:
            if self.max_share == 0 or error.where != f"{self.dataset.uri}/{filename}":
                raise
            logger.warning("%s is damaged (%s): its samples are left out", error.where, error.found)
            self._damaged[name] = DamagedFile(path=filename, expected=error.expected, found=error.found)
            return None
        self._whole.add(filename)
        return path


def _uri(dataset: DatasetManifest, store: Store) -> str:
    return f"{store.prefix(dataset.stage, dataset.stage_key)}/{FILENAME}"


def _read(dataset: DatasetManifest, store: Store) -> Quarantine:
    try:
        return Quarantine.model_validate_json(read_bytes(_uri(dataset, store)))
    except (MissingInputError, ValidationError):
        return Quarantine()
