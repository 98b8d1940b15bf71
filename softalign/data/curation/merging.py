"""Captions of exact duplicates go to the image that was kept: listed twice, an image loses no caption.

While shards are written, what duplicates say is noted beside the journal; when the last shard is there, those whose
images have more to say are written once more. So it does not matter how far apart two copies are listed. The notes of a
whole dataset are held at once then: the duplicates' captions, as text.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from softalign.data.curation.dedup import SHOWN_DIGITS, duplicate_of
from softalign.data.curation.journal import JournalEntry
from softalign.data.curation.rejections import Rejection
from softalign.data.curation.samples import weight_of
from softalign.data.curation.shards import Caption, read_index, rewrite_shard, shard_name, write_table
from softalign.store.files import file_entry, write_atomically

NOTE_SCHEMA = {
    "duplicate_of": "string",
    "text": "string",
    "source": "string",
    "file_name": "string",
    "weight": "double",
}


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
    weight: float = 1.0


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
            origin = (rejection.source, rejection.file_name)
            self._notes += (Note(digits, caption, *origin, weight_of(caption)) for caption in captions)

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
    """

    def __init__(self, output: Path, journal: Path, made: Path) -> None:
        self._output, self._journal, self._made = output, journal, made

    def merge(self, num_shards: int, notes: Sequence[Note]) -> int:
        """Give every image its own captions and those of its duplicates, in the listing's order, each text once.

        Shards that have them already stay as they are, so this may be stopped and done again.

        Args:
            num_shards: how many there are.
            notes: of all shards, in the listing's order.

        Returns:
            How many captions of duplicates there are then.
        """
        captions, num_merged = _captions_by_digits(notes), 0
        for name in map(shard_name, range(num_shards)):
            rows = read_index(self._output / f"{name}.parquet")
            merged = tuple(row.with_captions(captions.get(row.image_digest[:SHOWN_DIGITS], ())) for row in rows)
            if merged != rows:
                self._made.mkdir(exist_ok=True)
                rewrite_shard(self._output, self._made, name, merged)
                self._enter(name)
                self.put_in_place()
            num_merged += sum(len(row.captions) - len(row.own_captions) for row in merged)
        return num_merged

    def put_in_place(self) -> None:
        """Move the shards that were entered to the others: all that belongs to one, whatever was moved before."""
        for entry in sorted(self._made.glob("*.json")):
            for name in (f"{entry.stem}.tar", f"{entry.stem}.parquet"):
                if (self._made / name).exists():
                    os.replace(self._made / name, self._output / name)
            os.replace(entry, self._journal / entry.name)

    def _enter(self, name: str) -> None:
        """Write the journal entry of a merged shard: from then on it is the one that counts."""
        before = JournalEntry.model_validate_json((self._journal / f"{name}.json").read_bytes())
        made = {path.name: path for path in self._made.iterdir()}
        files = (made.get(Path(file.path).name) for file in before.files)
        entered = tuple(file_entry(new, old.path) if new else old for new, old in zip(files, before.files, strict=True))
        entry = JournalEntry(num_seen=before.num_seen, files=entered)
        write_atomically(self._made / f"{name}.json", entry.model_dump_json().encode())


def _captions_by_digits(notes: Sequence[Note]) -> dict[str, list[Caption]]:
    found: dict[str, list[Caption]] = {}
    for note in notes:
        found.setdefault(note.duplicate_of, []).append(Caption(note.text, note.source, note.file_name, note.weight))
    return found
