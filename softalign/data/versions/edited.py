"""What became of a dataset's captions by a refresh, for the reasons of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from softalign.data.curation.applying import plain, shown
from softalign.data.curation.changes import CaptionEdit, Listing
from softalign.data.curation.shards import IndexRow

REMOVED, CHANGED = "removed by a caption change", "changed by a caption change"
ADDED = "added by a caption change"


@dataclass(frozen=True, slots=True)
class Pair:
    """A caption that went beside the one that came, either may be empty; ``reason`` where a caption change did it."""

    before: str
    after: str
    reason: str = ""


class Edited:
    """Which captions came, went or were reworded by caption changes.

    Args:
        edits: all between the two datasets, in their order.
    """

    def __init__(self, edits: Iterable[CaptionEdit]) -> None:
        self._at: dict[Listing, list[CaptionEdit]] = {}
        for edit in edits:
            for place in dict.fromkeys((edit.listing, *edit.copies)):
                self._at.setdefault(place, []).append(edit)

    def pairs(self, before: IndexRow, after: IndexRow) -> Iterator[Pair]:
        """Yield what differs of an image's captions: what changes did; then the rest, beside each other in order."""
        gone = [caption for caption in before.captions if caption not in after.captions]
        came = [caption for caption in after.captions if caption not in before.captions]
        for caption in tuple(gone):
            now = self._now(before, caption)
            if caption not in now:
                gone.remove(caption)
                new = next((one for one in came if one in now), "")
                yield Pair(caption, new, CHANGED if now else REMOVED)
                came = [one for one in came if one != new]
        added = [caption for caption in came if self._is_new(after, caption)]
        yield from (Pair("", caption, ADDED) for caption in added)
        came = [caption for caption in came if caption not in added]
        yield from (Pair(one, two) for one, two in zip_longest(gone, came, fillvalue=""))

    def removes(self, row: IndexRow) -> bool:
        """Return whether all captions of an image were removed."""
        return bool(row.captions) and not any(self._now(row, caption) for caption in row.captions)

    def adds(self, row: IndexRow) -> bool:
        """Return whether a caption of an image came by a change."""
        return any(self._is_new(row, caption) for caption in row.captions)

    def _now(self, row: IndexRow, caption: str) -> set[str]:
        """Return the forms of what a caption has become: itself, unless a change meant it; none if it was removed."""
        now = {caption}
        for edit in self._at.get(_place_of(row, caption), ()):
            is_meant = edit.action != "add" and (not edit.before or bool(now & _forms(edit.before)))
            if is_meant and edit.action == "remove":
                return set()
            now = _forms(edit.caption) if is_meant else now
        return now

    def _is_new(self, row: IndexRow, caption: str) -> bool:
        edits = self._at.get(_place_of(row, caption), ())
        return any(edit.action != "remove" and caption in _forms(edit.caption) for edit in edits)


def _place_of(row: IndexRow, caption: str) -> Listing:
    index = row.captions.index(caption)
    return Listing(source=row.caption_sources[index], file_name=row.caption_files[index])


def _forms(text: str) -> set[str]:
    """Return how a dataset may show a caption: mended or not."""
    return {plain(text), shown(text, repair=True)}
