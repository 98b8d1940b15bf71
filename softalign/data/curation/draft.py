"""One shard on its way, whose files are linked where they come out as those of an earlier version."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from softalign.config.curation import CurationConfig
from softalign.data.curation.published import Placed
from softalign.data.curation.reuse import EarlierVersion
from softalign.data.curation.samples import Sample, weight_of
from softalign.data.curation.shards import Caption, IndexRow, shard_name, split_of, write_index
from softalign.data.curation.spooling import with_image
from softalign.data.curation.tars import ShardWriter


@dataclass(frozen=True, slots=True)
class _Held:
    """A sample whose members of the tar are those of the earlier version, without its image."""

    sample: Sample
    placed: Placed
    key: str
    before: IndexRow

    @property
    def row(self) -> IndexRow:
        """Its row: the earlier one, as far as that is right."""
        row = replace(self.before, source_digest=self.sample.source_digest)
        return row if _begins_with(row, self.sample) else row.with_captions(_own_captions(self.sample))


@dataclass(slots=True)
class Draft:
    """One shard on its way: held back as long as its tar is the earlier version's, written from where it is not.

    Attributes:
        index: of the shard.
        folder: where it goes.
        config: the layout, and the share of the images on the validation side.
        earlier: the earlier version, if there is one.
        nums_own_captions: of each sample.
        to_pack: the samples with their keys, of a shard whose images lie in files: it is written elsewhere.
    """

    index: int
    folder: Path
    config: CurationConfig
    earlier: EarlierVersion | None
    nums_own_captions: list[int] = field(default_factory=list)
    to_pack: list[tuple[Sample, str]] = field(default_factory=list)
    _held: list[_Held] = field(default_factory=list)
    _writer: ShardWriter | None = None

    def __len__(self) -> int:
        return len(self.nums_own_captions)

    @property
    def paths(self) -> tuple[Path, Path]:
        """Where tar and index go."""
        name = shard_name(self.index)
        return self.folder / f"{name}.tar", self.folder / f"{name}.parquet"

    def add(self, sample: Sample, placed: Placed | None, key: str) -> None:
        """Append a sample; ``placed`` says where the earlier version has it."""
        if sample.path and self.earlier is None and self._writer is None:
            self.nums_own_captions.append(len(sample.captions))
            self.to_pack.append((sample, key))
            return
        before = self._next_before()
        self.nums_own_captions.append(len(sample.captions))
        if placed is not None and before is not None and self._is_as_before(before, sample, key):
            self._held.append(_Held(replace(sample, image=b""), placed, key, before))
        else:
            self._opened().add(self._loaded(sample, placed), key)

    def close(self) -> tuple[IndexRow, ...]:
        """Finish the shard and return its rows; captions of copies may be of before, and are merged anew later."""
        before = self.earlier.rows(self.index) if self.earlier is not None else ()
        if self._writer is not None or self.earlier is None or len(self._held) != len(before):
            return self._opened().close()
        tar_path, index_path = self.paths
        rows = tuple(held.row for held in self._held)
        self.earlier.link(tar_path)
        if rows == before:
            self.earlier.link(index_path)
        else:
            write_index(index_path, rows)
        return rows

    def _next_before(self) -> IndexRow | None:
        """Return the earlier version's row in the next sample's place, if all before it are as they were."""
        rows = self.earlier.rows(self.index) if self.earlier is not None and self._writer is None else ()
        return rows[len(self._held)] if len(self._held) < len(rows) else None

    def _is_as_before(self, before: IndexRow, sample: Sample, key: str) -> bool:
        """Return whether the members of the tar are those that the earlier version has."""
        same = (key, sample.source, sample.filename, sample.extension)
        is_same_image = (before.key, before.source, before.file_name, before.extension) == same
        is_same_side = before.split == split_of(sample.image_digest, self.config.val_share)
        return is_same_image and is_same_side and (not self.config.captions_in_tars or _begins_with(before, sample))

    def _opened(self) -> ShardWriter:
        """Return the writer, with what was held back in it."""
        if self._writer is None:
            name, in_tars = shard_name(self.index), self.config.captions_in_tars
            self._writer = ShardWriter(self.folder, name, self.config.val_share, captions_in_tars=in_tars)
        for held in self._held:
            self._writer.add(self._loaded(held.sample, held.placed), held.key)
        self._held = []
        return self._writer

    def _loaded(self, sample: Sample, placed: Placed | None) -> Sample:
        if sample.path:
            return with_image(sample)
        if placed is None or self.earlier is None or sample.image:
            return sample
        return self.earlier.with_image(sample, placed)


def _own_captions(sample: Sample) -> tuple[Caption, ...]:
    return tuple(Caption(text, sample.source, sample.filename, weight_of(text)) for text in sample.captions)


def _begins_with(row: IndexRow, sample: Sample) -> bool:
    """Return whether a row's captions are a sample's, and then those of copies, if any."""
    return row.origins()[: len(sample.captions)] == _own_captions(sample)
