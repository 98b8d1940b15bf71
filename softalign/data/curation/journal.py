"""What a finished shard leaves behind for a restart, and what the finished ones amount to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from softalign.artifacts import FileEntry, Frozen
from softalign.data.curation.shards import IndexRow, shard_name
from softalign.errors import IntegrityError
from softalign.store.files import file_entry, verify_file, write_atomically


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


@dataclass(frozen=True, slots=True)
class Finished:
    """What a shard's journal entry says beside the shard's own files."""

    num_seen: int
    lists: tuple[FileEntry, ...]
    nums_own_captions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """What a shard amounts to."""

    num_samples: int
    num_val_samples: int
    num_captions: int

    @classmethod
    def of(cls, rows: Sequence[IndexRow]) -> Totals:
        """Return those of a shard's rows."""
        return cls(len(rows), sum(row.split == "val" for row in rows), sum(len(row.captions) for row in rows))


@dataclass(slots=True)
class Progress:
    """What the finished shards amount to."""

    num_seen: int = 0
    num_samples: int = 0
    num_own_captions: int = 0
    num_val_samples: int = 0
    num_shards: int = 0
    num_merged_captions: int = 0

    def add_shard(self, shard: Totals, entry: JournalEntry) -> None:
        """Count a finished shard."""
        num_own = sum(entry.nums_own_captions)
        self.num_seen = entry.num_seen
        self.num_samples += shard.num_samples
        self.num_own_captions += num_own
        self.num_val_samples += shard.num_val_samples
        self.num_merged_captions += shard.num_captions - num_own
        self.num_shards += 1


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of an unfinished curation: ``output`` is published, ``journal`` says what of it is finished.

    ``spool`` has images on their way into shards, of this attempt alone.
    """

    root: Path

    @property
    def output(self) -> Path:
        """Where shards are written."""
        return self.root / "output"

    @property
    def journal(self) -> Path:
        """Where their entries and lists are."""
        return self.root / "journal"

    @property
    def spool(self) -> Path:
        """Where workers put images."""
        return self.root / "spool"

    def make(self) -> None:
        """Make it, or take over what a former attempt finished."""
        shutil.rmtree(self.spool, ignore_errors=True)
        for folder in (self.output, self.journal, self.spool):
            folder.mkdir(parents=True, exist_ok=True)

    def rejected(self, index: int) -> Path:
        """Return where what was rejected on the way to a shard is listed."""
        return self.journal / f"{shard_name(index)}.rejected.parquet"

    def entries(self, *paths: Path) -> tuple[FileEntry, ...]:
        """Return the entries of files, by their paths in this folder."""
        return tuple(file_entry(path, path.relative_to(self.root).as_posix()) for path in paths)

    def enter(self, index: int, entry: JournalEntry) -> None:
        """Write a shard's journal entry."""
        write_atomically(self._entry(index), entry.model_dump_json().encode())

    def sound_entry(self, index: int) -> JournalEntry | None:
        """Return a shard's journal entry; None if there is none, or it or a file of the shard is damaged."""
        if not self._entry(index).is_file():
            return None
        try:
            entry = JournalEntry.model_validate_json(self._entry(index).read_bytes())
            for file in entry.files:
                verify_file(self.root / file.path, file, where=str(self.root / file.path))
        except (IntegrityError, ValidationError):  # a ValidationError also of another version's
            return None
        return entry

    def entries_of_shards(self, num_shards: int) -> Iterator[FileEntry]:
        """Yield the entries of the finished shards' files, by their paths in the dataset."""
        for index in range(num_shards):
            for file in JournalEntry.model_validate_json(self._entry(index).read_bytes()).files:
                folder, _, name = file.path.partition("/")
                if folder == self.output.name:
                    yield file.model_copy(update={"path": name})

    def _entry(self, index: int) -> Path:
        return self.journal / f"{shard_name(index)}.json"
