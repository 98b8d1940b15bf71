"""What a finished shard leaves behind for a restart, and what the finished ones amount to."""

from __future__ import annotations

from dataclasses import dataclass

from softalign.artifacts import FileEntry, Frozen
from softalign.data.curation.shards import IndexRow


class JournalEntry(Frozen):
    """A finished shard: how many listed samples were consumed up to its end, and the files it consists of."""

    num_seen: int
    files: tuple[FileEntry, ...]


@dataclass(slots=True)
class Progress:
    """What the finished shards amount to."""

    num_seen: int = 0
    num_samples: int = 0
    num_own_captions: int = 0
    num_val_samples: int = 0
    num_shards: int = 0
    num_merged_captions: int = 0

    def add_shard(self, rows: tuple[IndexRow, ...], num_seen: int) -> None:
        """Count a finished shard."""
        self.num_seen = num_seen
        self.num_samples += len(rows)
        self.num_own_captions += sum(len(row.own_captions) for row in rows)
        self.num_val_samples += sum(row.split == "val" for row in rows)
        self.num_merged_captions += sum(len(row.captions) - len(row.own_captions) for row in rows)
        self.num_shards += 1
