"""Captions of exact duplicates go to the image that was kept: listed twice, an image loses no caption.

While shards are written, what duplicates say is noted beside the journal; when the last shard is there, those whose
images have more to say are written once more. So it does not matter how far apart two copies are listed. The notes of a
whole dataset are held at once then: the duplicates' captions, as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from softalign.data.curation.dedup import SHOWN_DIGITS, duplicate_of
from softalign.data.curation.rejections import Rejection
from softalign.data.curation.shards import Caption, read_index, rewrite_shard, shard_name, write_table

NOTE_SCHEMA = {"duplicate_of": "string", "text": "string", "source": "string", "file_name": "string"}


@dataclass(frozen=True, slots=True)
class Note:
    """A caption that a duplicate of an accepted image was listed with.

    Attributes:
        duplicate_of: the image's digest, as far as ``dedup.duplicate_of`` tells it.
    """

    duplicate_of: str
    text: str
    source: str
    file_name: str


class DuplicateCaptions:
    """The notes of a curation, one file for each shard that was being written when they were made.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._notes = folder, list[Note]()

    def note(self, rejection: Rejection, captions: Sequence[str]) -> None:
        """Note the captions, which passed, of an image that was rejected, if it is an exact duplicate."""
        if digits := duplicate_of(rejection):
            self._notes += (Note(digits, caption, rejection.source, rejection.file_name) for caption in captions)

    def write(self, index: int) -> Path:
        """Write what was noted since the last call, as those of a shard, and return the file."""
        path = self._path(index)
        write_table(path, self._notes, NOTE_SCHEMA)
        self._notes = []
        return path

    def read(self, num_shards: int) -> list[Note]:
        """Return the notes of some shards, and of what was read after the last."""
        import pyarrow.parquet as pq

        paths = [self._path(index) for index in range(num_shards + 1)]
        return [Note(**row) for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]

    def _path(self, index: int) -> Path:
        return self._folder / f"{shard_name(index)}.notes.parquet"


@dataclass(frozen=True, slots=True)
class MergedShard:
    """A shard whose rows have what they shall: how many captions are of duplicates, and whether it was written."""

    index: int
    num_merged: int
    is_rewritten: bool


def merge_captions(folder: Path, num_shards: int, notes: list[Note]) -> Iterator[MergedShard]:
    """Give every image its own captions and those of its duplicates, in the order of the listing, each text once.

    Shards that have them already stay as they are, so this may be stopped and done again.

    Args:
        folder: where the shards lie.
        num_shards: how many there are.
        notes: of all shards, in the listing's order.
    """
    by_digest: dict[str, list[Caption]] = {}
    for note in notes:
        by_digest.setdefault(note.duplicate_of, []).append(Caption(note.text, note.source, note.file_name))
    for index in range(num_shards):
        rows = read_index(folder / f"{shard_name(index)}.parquet")
        merged = tuple(row.with_captions(by_digest.get(row.image_digest[:SHOWN_DIGITS], ())) for row in rows)
        if merged != rows:
            rewrite_shard(folder, shard_name(index), merged)
        num_merged = sum(len(row.captions) - len(row.own_captions) for row in merged)
        yield MergedShard(index, num_merged, merged != rows)
