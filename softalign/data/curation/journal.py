"""What a finished shard leaves behind for a restart, and what the finished ones amount to."""

from __future__ import annotations

from dataclasses import dataclass

from softalign.artifacts import FileEntry, Frozen
from softalign.data.curation.shards import IndexRow


class JournalEntry(Frozen):
    """A finished shard.

    Attributes:
        num_seen: how many listed samples were consumed up to its end.
        files: what it consists of.
        nums_own_captions: of each row, how many of its captions its own listing had; those of copies come after them.
    """

    num_seen: int
    files: tuple[FileEntry, ...]
    nums_own_captions: tuple[int, ...]


@dataclass(slots=True)
class Progress:
    """What the finished shards amount to."""

    num_seen: int = 0
    num_samples: int = 0
    num_own_captions: int = 0
    num_val_samples: int = 0
    num_shards: int = 0
    num_merged_captions: int = 0

    def add_shard(self, rows: tuple[IndexRow, ...], entry: JournalEntry) -> None:
        """Count a finished shard."""
        num_own = sum(entry.nums_own_captions)
        self.num_seen = entry.num_seen
        self.num_samples += len(rows)
        self.num_own_captions += num_own
        self.num_val_samples += sum(row.split == "val" for row in rows)
        self.num_merged_captions += sum(len(row.captions) for row in rows) - num_own
        self.num_shards += 1
