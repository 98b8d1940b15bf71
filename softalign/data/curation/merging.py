"""Captions of exact duplicates go to the image that was kept: listed twice, an image loses no caption.

While shards are written, what duplicates say is noted beside the journal; when the last shard is there, those whose
images have more to say are written once more (their indexes alone, where tars hold no captions). So it does not matter
how far apart two copies are listed. The notes of a whole dataset are held at once then: the duplicates' captions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from softalign.config.curation import CurationConfig
from softalign.data.curation.dedup import SHOWN_DIGITS, duplicate_of
from softalign.data.curation.filters import flaw_beside
from softalign.data.curation.journal import JournalEntry
from softalign.data.curation.names import shown_caption
from softalign.data.curation.rejections import REPAIRS, Rejection
from softalign.data.curation.samples import weight_of
from softalign.data.curation.shards import Caption, IndexRow, read_index, shard_name, write_index, write_table
from softalign.data.curation.tars import rewrite_shard
from softalign.store.files import file_entry, write_atomically

NOTE_SCHEMA = {
    "duplicate_of": "string",
    "text": "string",
    "source": "string",
    "file_name": "string",
    "caption_index": "int32",
    "weight": "double",
}


@dataclass(frozen=True, slots=True)
class Note:
    """A caption that a duplicate of an accepted image was listed with.

    Attributes:
        duplicate_of: the image's digest, as far as ``dedup.duplicate_of`` tells it.
        caption_index: its place in the duplicate's listing.
    """

    duplicate_of: str
    text: str
    source: str
    file_name: str
    caption_index: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Merged:
    """How many captions of duplicates there are, and why others of theirs are not."""

    num_captions: int
    rejections: tuple[Rejection, ...]


class DuplicateCaptions:
    """The notes of a curation, one file for each shard that was being written when they were made.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._notes = folder, list[Note]()

    def note(self, rejection: Rejection, captions: Sequence[str], others: Sequence[Rejection]) -> None:
        """Note the captions that passed of an image that was rejected, if it is an exact duplicate.

        Args:
            rejection: of the image.
            captions: in the listing's order.
            others: of the same listing, which say what captions there were between them.
        """
        if digits := duplicate_of(rejection):
            refused = {one.caption_index for one in others if one.reason not in REPAIRS}
            places = (place for place in count() if place not in refused)
            origin = (rejection.source, rejection.file_name)
            for caption, place in zip(captions, places, strict=False):
                self._notes.append(Note(digits, caption, *origin, place, weight_of(caption)))

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


class MergedShards:
    """Shards with the captions of duplicates, made beside those without, and put in their place whole.

    Args:
        output: where shards lie.
        journal: where their entries lie.
        made: where merged ones are made, with their entry last.
        config: the layout, and which captions of one image are too alike.
    """

    def __init__(self, output: Path, journal: Path, made: Path, config: CurationConfig) -> None:
        self._output, self._journal, self._made, self._config = output, journal, made, config

    def merge(self, num_shards: int, notes: Sequence[Note]) -> Merged:
        """Give every image its own captions and those of its duplicates, in the listing's order, each text once.

        Shards that have them already stay as they are, so this may be stopped and done again.

        Args:
            num_shards: how many there are.
            notes: of all shards, in the listing's order.
        """
        notes_of, num_merged, rejections = _by_digits(notes), 0, list[Rejection]()
        for name in map(shard_name, range(num_shards)):
            rows, entry = read_index(self._output / f"{name}.parquet"), self._entry(name)
            merged = tuple(
                self._merged(row, number, notes_of.get(row.image_digest[:SHOWN_DIGITS], ()), rejections)
                for row, number in zip(rows, entry.nums_own_captions, strict=True)
            )
            if merged != rows:
                self._write(name, merged)
                self._enter(name, entry)
                self.put_in_place()
            num_merged += sum(len(row.captions) for row in merged) - sum(entry.nums_own_captions)
        return Merged(num_merged, tuple(rejections))

    def _merged(self, row: IndexRow, num_own: int, notes: Sequence[Note], rejections: list[Rejection]) -> IndexRow:
        """Return a row with its own captions and those of its copies; says of which are too alike to earlier ones."""
        kept = {caption.text: caption for caption in row.origins()[:num_own]}
        for note in notes:
            flaw = flaw_beside(note.text, kept, self._config.filters)
            if flaw is None:
                kept[note.text] = Caption(note.text, note.source, note.file_name, note.weight)
            elif note.text not in kept:
                place = (note.source, note.file_name, flaw.reason, flaw.detail, note.caption_index)
                rejections.append(Rejection(*place, shown_caption(note.text)))
        return row.with_captions(kept.values())

    def put_in_place(self) -> None:
        """Move the shards that were entered to the others: all that belongs to one, whatever was moved before."""
        for entry in sorted(self._made.glob("*.json")):
            for name in (f"{entry.stem}.tar", f"{entry.stem}.parquet"):
                if (self._made / name).exists():
                    os.replace(self._made / name, self._output / name)
            os.replace(entry, self._journal / entry.name)

    def _write(self, name: str, rows: tuple[IndexRow, ...]) -> None:
        self._made.mkdir(exist_ok=True)
        if self._config.captions_in_tars:
            rewrite_shard(self._output, self._made, name, rows)
        else:
            write_index(self._made / f"{name}.parquet", rows)

    def _entry(self, name: str) -> JournalEntry:
        return JournalEntry.model_validate_json((self._journal / f"{name}.json").read_bytes())

    def _enter(self, name: str, before: JournalEntry) -> None:
        """Write the journal entry of a merged shard: from then on it is the one that counts."""
        made = {path.name: path for path in self._made.iterdir()}
        files = (made.get(Path(file.path).name) for file in before.files)
        entered = tuple(file_entry(new, old.path) if new else old for new, old in zip(files, before.files, strict=True))
        entry = before.model_copy(update={"files": entered})
        write_atomically(self._made / f"{name}.json", entry.model_dump_json().encode())


def _by_digits(notes: Sequence[Note]) -> dict[str, list[Note]]:
    found: dict[str, list[Note]] = {}
    for note in notes:
        found.setdefault(note.duplicate_of, []).append(note)
    return found
