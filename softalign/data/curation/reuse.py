"""Curation beside an earlier version of the same dataset: what that knows of an image is not found out again.

That is the dataset before the last caption changes, before images and tables changed, or before failures were mended.
Every decision is made as without it (filters, duplicates, order), only an image that it kept is neither read nor
decoded, and a shard that comes out as it was is linked. So the result is that of curating from nothing, byte for byte.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import tee
from pathlib import Path

from softalign.artifacts import DatasetManifest
from softalign.config.curation import CurationConfig
from softalign.data.curation.dedup import DUPLICATE
from softalign.data.curation.filters import filter_captions
from softalign.data.curation.published import OpenedDataset, Placed
from softalign.data.curation.rejections import TO_TRY_AGAIN, Reason, Rejection
from softalign.data.curation.samples import HeldImage, ListedSample, Sample, weight_of
from softalign.data.curation.shards import IndexRow, ShardWriter, shard_name, split_of
from softalign.errors import IntegrityError
from softalign.store.store import Store

logger = logging.getLogger(__name__)
OF_CAPTIONS: frozenset[Reason] = frozenset({"no_caption", "no_caption_left"})
"""Whose images were never read."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the earlier version says of a listed sample: a row, or why its image was left out."""

    placed: Placed | None = None
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Beside:
    """Which earlier version to go by.

    Attributes:
        key: its stage key.
        is_compared: its sources may have been other ones, so each image's bytes are compared with those it has.
    """

    key: str
    is_compared: bool = False


@dataclass(frozen=True, slots=True)
class ToConfirm:
    """A listed sample whose image is read, and decoded only if its bytes are not those that an earlier version has."""

    listed: ListedSample
    placed: Placed


@dataclass(frozen=True, slots=True)
class ReadSample:
    """A sample whose image could be read, or none; with the rejections on the way.

    ``placed`` is where an earlier version of the dataset has its image, which was not read then; ``captions`` are those
    that passed of an image which it left out.
    """

    sample: Sample | None
    rejections: tuple[Rejection, ...]
    placed: Placed | None = None
    captions: tuple[str, ...] = ()


class EarlierVersion:
    """A published version of the dataset with the same filters.

    Args:
        manifest: of the version.
        store: where it lies.
        is_compared: see ``Beside``; what was left out is looked at anew then.

    Raises:
        IntegrityError: a file of it is not what was published.
    """

    def __init__(self, manifest: DatasetManifest, store: Store, *, is_compared: bool = False) -> None:
        self.manifest, self._is_compared = manifest, is_compared
        self._root = store.fetch(manifest)
        opened = OpenedDataset(manifest, store)
        self._shards = [tuple(rows) for _, rows in opened.shards()]
        self._known: dict[tuple[str, str], Known | None] = {}
        for index, rows in enumerate(self._shards):
            for row in rows:
                self._note(row.source, row.file_name, Known(placed=Placed(row, shard_name(index))))
        for one in () if is_compared else opened.rejections():
            if one.caption_index < 0 and one.reason not in TO_TRY_AGAIN | OF_CAPTIONS:
                self._note(one.source, one.file_name, Known(rejection=one))
        self._accepted = [row.image_digest for rows in self._shards for row in rows]
        self._num_accepted, self._is_same = 0, True

    def find(self, listed: ListedSample) -> Known | None:
        """Return what is known of a listed sample's image; None: it has to be read."""
        return self._known.get((listed.source, listed.filename)) if listed.flaw is None else None

    def to_read(self, listed: ListedSample) -> ListedSample | ToConfirm | None:
        """Return what has to be read for a listed sample, or None."""
        known = self.find(listed)
        if known is None:
            return listed
        return ToConfirm(listed, known.placed) if self._is_compared and known.placed is not None else None

    def without_image(self, listed: ListedSample) -> ListedSample:
        """Return a listed sample, which may hold its image, without it where nobody will ask for it."""
        known = self.find(listed)
        is_asked = known is None or (known.rejection is not None and known.rejection.reason in DUPLICATE)
        return listed if is_asked or self.to_read(listed) is not None else replace(listed, images=HeldImage(b""))

    def accepted(self, image_digest: str) -> None:
        """Hear of an image that was accepted: as long as all are as before, so are duplicates."""
        at = self._num_accepted
        self._is_same = self._is_same and at < len(self._accepted) and self._accepted[at] == image_digest
        self._num_accepted += 1

    def lost(self) -> None:
        """Hear of an image that was accepted before and is not now: others may not be its duplicates any more."""
        self._is_same = False

    @property
    def has_same_duplicates(self) -> bool:
        """Whether the images accepted so far are those that were accepted before."""
        return self._is_same

    def with_image(self, sample: Sample, placed: Placed) -> Sample:
        """Return a sample with its image, read from its shard."""
        with (self._root / f"{placed.shard}.tar").open("rb") as tar:
            tar.seek(placed.row.offset_bytes)
            return replace(sample, image=tar.read(placed.row.size_bytes))

    def rows(self, index: int) -> tuple[IndexRow, ...]:
        """Return the rows of a shard; none where there was no such shard."""
        return self._shards[index] if index < len(self._shards) else ()

    def link(self, index: int, folder: Path) -> None:
        """Put a shard as it was into a folder, without a second copy where the disk can share it."""
        for suffix in ("tar", "parquet"):
            name = f"{shard_name(index)}.{suffix}"
            source, target = self._root / name, folder / name
            target.unlink(missing_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another disk, or one without links
                shutil.copyfile(source, target)

    def _note(self, source: str, file_name: str, known: Known) -> None:
        is_first = (source, file_name) not in self._known
        self._known[source, file_name] = known if is_first else None  # of two with one name nothing is known


def open_earlier(beside: Beside | None, store: Store) -> EarlierVersion | None:
    """Return the version to go by; None where there is none, or it is damaged: the result is the same without."""
    manifest = store.find(DatasetManifest, beside.key) if beside is not None else None
    if beside is None or manifest is None:
        return None
    try:
        return EarlierVersion(manifest, store, is_compared=beside.is_compared)
    except IntegrityError as error:
        logger.warning("An earlier version is damaged, so all images are read again: %s", error.where)
        return None


def known_sample(listed: ListedSample, placed: Placed, captions: tuple[str, ...], image: bytes = b"") -> Sample:
    """Return a sample with what is known of its image; without the image itself see ``EarlierVersion.with_image``."""
    row = placed.row
    return Sample(
        source=listed.source,
        filename=listed.filename,
        captions=captions,
        image=image,
        extension=row.extension,
        image_digest=row.image_digest,
        perceptual_hash=int(row.perceptual_hash, 16),
        width_px=row.width_px,
        height_px=row.height_px,
    )


def read_beside(
    listed: Iterable[ListedSample],
    earlier: EarlierVersion,
    config: CurationConfig,
    read_all: Callable[[Iterable[ListedSample | ToConfirm]], Iterator[ReadSample]],
    read_one: Callable[[ListedSample], ReadSample],
) -> Iterator[ReadSample]:
    """Yield what became of each listed sample, of which only those are read that the earlier version does not know.

    Whoever takes them tells ``earlier`` of what is accepted and lost before asking for the next.

    Args:
        listed: the samples.
        earlier: the earlier version.
        config: sources and filters, as they were.
        read_all: reads samples, in order, some ahead.
        read_one: reads one now; one without a caption that passes is not looked for.
    """
    ahead, here = tee(map(earlier.without_image, listed))
    read = iter(read_all(item for one in ahead if (item := earlier.to_read(one)) is not None))
    for one in here:
        known = earlier.find(one)
        if known is None or earlier.to_read(one) is not None:
            yield next(read)
            continue
        verdict = filter_captions(one, config.filters)
        if not verdict.captions:
            yield replace(read_one(one), placed=known.placed)
        elif known.placed is not None:
            yield ReadSample(known_sample(one, known.placed, verdict.captions), verdict.rejections, known.placed)
        elif known.rejection is not None and (earlier.has_same_duplicates or known.rejection.reason not in DUPLICATE):
            yield ReadSample(None, (*verdict.rejections, known.rejection), captions=verdict.captions)
        else:
            yield read_one(one)


@dataclass(slots=True)
class Draft:
    """One shard on its way: held back as long as it is the earlier version's, written from where it is not.

    Attributes:
        index: of the shard.
        folder: where it goes.
        val_share: share of the images on the validation side.
        earlier: the earlier version, if there is one.
    """

    index: int
    folder: Path
    val_share: float
    earlier: EarlierVersion | None
    _held: list[tuple[Sample, Placed, str]] = field(default_factory=list)
    _writer: ShardWriter | None = None

    def __len__(self) -> int:
        return len(self._held) + (len(self._writer) if self._writer is not None else 0)

    @property
    def paths(self) -> tuple[Path, Path]:
        """Where tar and index go."""
        name = shard_name(self.index)
        return self.folder / f"{name}.tar", self.folder / f"{name}.parquet"

    def add(self, sample: Sample, placed: Placed | None, key: str) -> None:
        """Append a sample; ``placed`` says where the earlier version has it."""
        if placed is not None and self._is_as_before(sample, key):
            self._held.append((replace(sample, image=b""), placed, key))
        else:
            self._opened().add(self._loaded(sample, placed), key)

    def close(self) -> tuple[IndexRow, ...]:
        """Finish the shard and return its rows."""
        if self._writer is None and self.earlier is not None:
            rows = self.earlier.rows(self.index)
            if len(rows) == len(self._held):
                self.earlier.link(self.index, self.folder)
                return rows
        return self._opened().close()

    def _is_as_before(self, sample: Sample, key: str) -> bool:
        rows = self.earlier.rows(self.index) if self.earlier is not None else ()
        if self._writer is not None or len(self._held) >= len(rows):
            return False
        row = rows[len(self._held)]
        same = (key, sample.source, sample.filename, sample.extension)
        is_same_image = (row.key, row.source, row.file_name, row.extension) == same
        is_same_side = row.split == split_of(sample.image_digest, self.val_share)
        own = tuple((caption.text, caption.weight) for caption in row.own_captions)
        now = tuple((caption, weight_of(caption)) for caption in sample.captions)
        return is_same_image and is_same_side and own == now

    def _opened(self) -> ShardWriter:
        """Return the writer, with what was held back in it."""
        if self._writer is None:
            self._writer = ShardWriter(self.folder, shard_name(self.index), self.val_share)
        for sample, placed, key in self._held:
            self._writer.add(self._loaded(sample, placed), key)
        self._held = []
        return self._writer

    def _loaded(self, sample: Sample, placed: Placed | None) -> Sample:
        if placed is None or self.earlier is None or sample.image:
            return sample
        return self.earlier.with_image(sample, placed)
