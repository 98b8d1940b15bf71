"""What is encoded together: the images and the texts of a dataset's shards, those that are not known yet."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from softalign.config.training import EditKind, NegativesConfig
from softalign.data.captions.edit_shares import edit_shares, warn_of_missing_kinds
from softalign.data.captions.hard_negatives import EditedCaption, drawn_edits
from softalign.data.curation.samples import caption_digest
from softalign.data.curation.shards import IndexRow

InputT = TypeVar("InputT")

logger = logging.getLogger(__name__)

EMPTY_CAPTION = ""
MAX_TEXTS_PER_SHARD = 512


class DatasetShard:
    """One shard of the dataset: its rows, the hard negatives of their captions, and how many these are of each kind."""

    def __init__(self, name: str, rows: tuple[IndexRow, ...], negatives: NegativesConfig) -> None:
        self.name, self.rows = name, rows
        edits = [_hard_negatives(row, negatives) for row in self.rows]
        self.hard_negatives = [[[edit.text for edit in of_one] for of_one in of_row] for of_row in edits]
        self.num_edits = Counter(edit.kind for of_row in edits for of_one in of_row for edit in of_one)

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield all captions and hard negatives by their digests; some come more than once."""
        for row, edits in zip(self.rows, self.hard_negatives, strict=True):
            yield from zip(row.caption_digests, row.captions, strict=True)
            yield from ((caption_digest(edit), edit) for edits_of_one in edits for edit in edits_of_one)


def _hard_negatives(row: IndexRow, negatives: NegativesConfig) -> list[tuple[EditedCaption, ...]]:
    """Return edits of each of an image's captions; no edit says what another of the captions says."""
    number, kinds, counts = negatives.num_hard, negatives.kinds, negatives.counts
    if number == 0:
        return [() for _ in row.captions]
    return [drawn_edits(caption, number, row.captions, kinds, counts) for caption in row.captions]


@dataclass(frozen=True, slots=True)
class Group(Generic[InputT]):
    """What becomes one shard of a pool: its inputs by digest; for images the shard of the dataset they lie in."""

    inputs: dict[str, InputT]
    source: str = ""


def say_edits(shards: tuple[DatasetShard, ...], negatives: NegativesConfig) -> None:
    """Say of which kinds the edits are, and which kind no caption can give."""
    if negatives.num_hard == 0:
        return
    total: Counter[EditKind] = Counter()
    for shard in shards:
        total += shard.num_edits
    if total:
        logger.info("edits of captions by kind: %s", edit_shares(total))
    warn_of_missing_kinds(negatives.kinds, total)


def digests_of_images(dataset: tuple[DatasetShard, ...]) -> frozenset[str]:
    """Return what a dataset's images are found by."""
    return frozenset(row.image_digest for shard in dataset for row in shard.rows)


def digests_of_texts(dataset: tuple[DatasetShard, ...]) -> frozenset[str]:
    """Return what a dataset's captions and hard negatives, and the empty caption, are found by."""
    return frozenset({caption_digest(EMPTY_CAPTION), *(digest for shard in dataset for digest, _ in shard.texts())})


def image_groups(dataset: tuple[DatasetShard, ...], known: set[str]) -> list[Group[IndexRow]]:
    """Return one group for each shard of the dataset that holds images that are not known; then they are."""
    groups: list[Group[IndexRow]] = []
    for shard in dataset:
        rows = {row.image_digest: row for row in shard.rows if row.image_digest not in known}
        known.update(rows)
        if rows:
            groups.append(Group(rows, shard.name))
    return groups


def text_groups(dataset: tuple[DatasetShard, ...], known: set[str]) -> list[Group[str]]:
    """Return the empty caption's group, then for each shard of the dataset those of its new texts; then they are known.

    Of a refresh few are new: they are taken together, whatever shards they are of.
    """
    empty = caption_digest(EMPTY_CAPTION)
    groups = [] if empty in known else [Group({empty: EMPTY_CAPTION})]
    is_refresh = bool(known)
    known.add(empty)
    for shards in [dataset] if is_refresh else [(shard,) for shard in dataset]:
        texts = (item for shard in shards for item in shard.texts())
        new = iter({digest: text for digest, text in texts if digest not in known}.items())
        while group := dict(islice(new, MAX_TEXTS_PER_SHARD)):
            known.update(group)
            groups.append(Group(group))
    return groups
