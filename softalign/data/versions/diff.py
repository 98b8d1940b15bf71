"""What differs between two datasets: images and captions that came, went or changed, and why.

Images are matched by key, which is of their content; one with the same name in its source and other content is
``replaced``. Why something is missing is taken from the lists of rejections, and from the caption changes in between.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from softalign.artifacts import DatasetManifest
from softalign.data.curation.changes import CaptionEdit
from softalign.data.curation.published import OpenedDataset, Placed
from softalign.data.curation.rejections import Reason, Rejection
from softalign.data.curation.reuse import OF_CAPTIONS
from softalign.data.curation.shards import IndexRow
from softalign.data.versions.distributions import CAPTIONS_PER_IMAGE, Bins, Captions, Distribution
from softalign.data.versions.edited import ADDED, REMOVED, Edited, Pair
from softalign.data.versions.found_changes import (
    CaptionChange,
    Compared,
    DatasetDiff,
    ImageChange,
    Kind,
    Side,
    SourceReweighted,
)

NEW, NOT_LISTED, REWORDED = "new", "not listed any more", "reworded"
Place = tuple[str, str]
"""A source's name and a file name of it."""
_OF_LISTINGS: frozenset[Reason] = OF_CAPTIONS | {"exact_duplicate"}
"""Of images that are there, or whose captions say why they are not."""
_MUTE: frozenset[Reason | None] = OF_CAPTIONS | {None}
"""Why an image is missing that may have lost, or lacked, its captions."""


@dataclass(frozen=True)
class _Version:
    """One dataset, read."""

    manifest: DatasetManifest
    samples: dict[str, Placed]
    rejections: tuple[Rejection, ...]

    @classmethod
    def of(cls, opened: OpenedDataset) -> _Version:
        return cls(opened.manifest, {one.row.key: one for one in opened.samples()}, opened.rejections())

    @cached_property
    def keys(self) -> dict[Place, str]:
        """Keys by place."""
        return {(one.row.source, one.row.file_name): key for key, one in self.samples.items()}

    @cached_property
    def why_no_image(self) -> dict[Place, Reason]:
        return {(one.source, one.file_name): one.reason for one in self.rejections if one.caption_index < 0}

    @cached_property
    def why_no_caption(self) -> dict[Place, Counter[Reason]]:
        found: dict[Place, Counter[Reason]] = {}
        for one in self.rejections:
            if one.caption_index >= 0:
                found.setdefault((one.source, one.file_name), Counter())[one.reason] += 1
        return found

    def why_not(self, row: IndexRow) -> Reason | None:
        """Return why an image is not in this version, by where another one has it listed."""
        return next((self.why_no_image[place] for place in _places(row) if place in self.why_no_image), None)

    def side(self) -> Side:
        fields = {name: getattr(self.manifest, name) for name in Side.model_fields}
        return Side(**fields)


def compare_datasets(before: OpenedDataset, after: OpenedDataset, edits: Iterable[CaptionEdit] = ()) -> DatasetDiff:
    """Return what differs between two datasets; ``edits`` are the caption changes from the earlier to the later one.

    Raises:
        IntegrityError: a list of one of them is not what was published.
        StorageUnavailableError: a store did not answer.
    """
    old, new, edited = _Version.of(before), _Version.of(after), Edited(edits)
    pairs = dict(_matched(old, new))
    kept = {key: new.samples[other] for key, other in pairs.items() if key == other}
    captions = tuple(change for key, other in pairs.items() for change in _captions(old, new, key, other, edited))
    num_gone = sum(change.kind != "added" for change in captions)
    return DatasetDiff(
        before=old.side(),
        after=new.side(),
        is_child=new.manifest.parent_key == old.manifest.stage_key,
        num_images_kept=len(kept),
        num_captions_kept=sum(len(old.samples[key].row.captions) for key in pairs) - num_gone,
        num_moved=sum(old.samples[key].row.split != one.row.split for key, one in kept.items()),
        num_reweighted=sum(_num_reweighted(old.samples[a].row, new.samples[b].row) for a, b in pairs.items()),
        source_weights=tuple(_source_weights(old, new)),
        images=tuple(_images(old, new, pairs, edited)),
        captions=captions,
        distributions=tuple(_distributions(old, new)),
    )


def _num_reweighted(before: IndexRow, after: IndexRow) -> int:
    """Return how many captions both rows have with another share of the image's draws; by weight if others differ."""
    old, new = ({one.text: one.weight for one in row.origins()} for row in (before, after))
    if old.keys() != new.keys():  # a caption that came or went takes its share from all
        return sum(new[text] != weight for text, weight in old.items() if text in new)
    shares = [{text: weight / sum(row.values()) for text, weight in row.items()} for row in (old, new)]
    return sum(not math.isclose(share, shares[1][text]) for text, share in shares[0].items())


def _source_weights(old: _Version, new: _Version) -> Iterator[SourceReweighted]:
    """Yield the sources of both whose weights differ; a manifest leaves those of 1 out."""
    sources = [{one.row.source for one in version.samples.values()} for version in (old, new)]
    weights = [{one.source: one.weight for one in version.manifest.weights} for version in (old, new)]
    for source in sorted(set.intersection(*sources)):
        before, after = (known.get(source, 1.0) for known in weights)
        if before != after:
            yield SourceReweighted(source=source, before=before, after=after)


def _matched(old: _Version, new: _Version) -> Iterator[tuple[str, str]]:
    """Yield the keys of images that both have, by content or else by name."""
    for key, one in old.samples.items():
        if key in new.samples:
            yield key, key
        else:
            other = new.keys.get((one.row.source, one.row.file_name))
            if other is not None and other not in old.samples:
                yield key, other


def _images(old: _Version, new: _Version, pairs: Mapping[str, str], edited: Edited) -> Iterator[ImageChange]:
    replaced = {other for key, other in pairs.items() if key != other}
    for key, one in new.samples.items():
        if key in replaced:
            yield _image("changed", "replaced under the same name", one)
        elif key not in old.samples:
            before = old.why_not(one.row)
            why = f"was {before}" if before else NEW
            yield _image("added", ADDED if before in _MUTE and edited.adds(one.row) else why, one)
    for key, one in old.samples.items():
        if key not in pairs:
            after = new.why_not(one.row)
            why = after or NOT_LISTED
            yield _image("removed", REMOVED if after in _MUTE and edited.removes(one.row) else why, one)


def _image(kind: Kind, reason: str, one: Placed) -> ImageChange:
    row = one.row
    return ImageChange(
        kind=kind,
        reason=reason,
        key=row.key,
        source=row.source,
        file_name=row.file_name,
        captions=tuple(row.captions),
    )


def _captions(old: _Version, new: _Version, key: str, other: str, edited: Edited) -> Iterator[CaptionChange]:
    """Yield what happened to an image's captions."""
    before, after = old.samples[key].row, new.samples[other].row
    reasons = _Reasons(old, new, before, after)
    for pair in edited.pairs(before, after):
        kind: Kind = "changed" if pair.before and pair.after else "added" if pair.after else "removed"
        yield CaptionChange(
            kind=kind,
            reason=reasons.of(pair),
            key=other,
            source=after.source,
            file_name=after.file_name,
            before=pair.before,
            after=pair.after,
        )


class _Reasons:
    """Why captions of one image are gone, by where each was listed: a refusal there is said of one of them."""

    def __init__(self, old: _Version, new: _Version, before: IndexRow, after: IndexRow) -> None:
        self._new, self._row = new, before
        self._renamed = {_places(before)[0]: _places(after)[0]}
        self._refused = {
            place: (new.why_no_caption.get(self._now(place), Counter()) - old.why_no_caption.get(place, Counter()))
            for place in _places(before)
        }

    def of(self, pair: Pair) -> str:
        if pair.after:
            return pair.reason or (REWORDED if pair.before else NEW)
        refused = self._of_gone(pair.before) if pair.reason != REMOVED else NOT_LISTED
        return pair.reason or refused if refused == NOT_LISTED else refused  # of a new text that is left out, that

    def _of_gone(self, caption: str) -> str:
        index = self._row.captions.index(caption)
        place = (self._row.caption_sources[index], self._row.caption_files[index])
        for reason in +self._refused[place]:
            self._refused[place][reason] -= 1
            return reason
        of_copy = self._new.why_no_image.get(self._now(place))
        return of_copy if of_copy and of_copy not in _OF_LISTINGS else NOT_LISTED

    def _now(self, place: Place) -> Place:
        return self._renamed.get(place, place)


def _places(row: IndexRow) -> tuple[Place, ...]:
    """Return where an image is listed, as far as its captions say, its own place first."""
    return tuple(
        dict.fromkeys([(row.source, row.file_name), *zip(row.caption_sources, row.caption_files, strict=True)])
    )


def _distributions(old: _Version, new: _Version) -> Iterator[Compared]:
    for one, two in zip(_of_version(old), _of_version(new), strict=True):
        labels = tuple(dict.fromkeys((*one.labels, *two.labels)))
        before, after = (dict(zip(side.labels, side.counts, strict=True)) for side in (one, two))
        yield Compared(
            title=one.title,
            unit=one.unit,
            labels=labels,
            before=tuple(before.get(label, 0) for label in labels),
            after=tuple(after.get(label, 0) for label in labels),
        )


def _of_version(version: _Version) -> tuple[Distribution, ...]:
    captions, numbers = Captions(), Bins("Captions per image", "images by captions", CAPTIONS_PER_IMAGE)
    for one in version.samples.values():
        numbers.add(len(one.row.captions))
        for caption in one.row.captions:
            captions.add(caption)
    lengths, scripts = captions.distributions()
    return lengths, numbers.distribution(), scripts
