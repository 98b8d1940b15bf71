"""The page of two datasets side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from softalign.data.curation.published import OpenedDataset, Placed
from softalign.data.versions.found_changes import KINDS, CaptionChange, DatasetDiff, ImageChange
from softalign.data.versions.pages.rendering import SMALL_PX, template, thumbnail

ItemT = TypeVar("ItemT")

MAX_EXAMPLES = 24
"""Of each kind of change: enough to judge, and a page of some megabytes at most."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image with what came (``after``) and went (``before``)."""

    name: str
    reason: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    src: str
    is_small: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Examples of one kind of change, of how many."""

    title: str
    total: int
    examples: tuple[Example, ...]


def render_diff(diff: DatasetDiff, before: OpenedDataset, after: OpenedDataset) -> str:
    """Return the page; the same datasets are the same bytes.

    Args:
        diff: of the two.
        before: for pictures of what went.
        after: for pictures of what stayed or came.

    Raises:
        IntegrityError: an image is not what was published.
        StorageUnavailableError: a store did not answer.
    """
    lost = {one.reason: one.count for one in diff.before.rejected}
    lost_after = {one.reason: one.count for one in diff.after.rejected}
    return template("diff.html.j2").render(
        diff=diff,
        verdict=_verdict(diff),
        counts=[(of, *one) for of in ("images", "captions") for one in diff.counts(of)],
        reasons=[(one, lost.get(one, 0), lost_after.get(one, 0)) for one in sorted({*lost, *lost_after})],
        groups=list(_groups(diff, before, after)),
    )


def _verdict(diff: DatasetDiff) -> str:
    if diff.is_same:
        return "Both hold the same images and captions, with the same weights."
    parts = []
    for of, changes in (("image", diff.images), ("caption", diff.captions)):
        for kind in KINDS:
            number = sum(change.kind == kind for change in changes)
            if number:
                parts.append(f"{number:,} {of}{'s' * (number != 1)} {kind}")
    if diff.num_moved:
        parts.append(f"{diff.num_moved:,} images on another side of the split")
    if diff.num_reweighted:
        parts.append(f"{diff.num_reweighted:,} captions weighted otherwise")
    parts += [one.to_text() for one in diff.source_weights]
    return f"{', '.join(parts)}."


def _groups(diff: DatasetDiff, before: OpenedDataset, after: OpenedDataset) -> Iterator[Group]:
    chosen: list[tuple[str, int, Sequence[ImageChange | CaptionChange]]] = []
    for of, changes in (("Captions", diff.captions), ("Images", diff.images)):
        for kind in ("changed", "added", "removed"):
            listed: list[ImageChange | CaptionChange] = [change for change in changes if change.kind == kind]
            if listed:
                chosen.append((f"{of} {kind}", len(listed), spread(listed, MAX_EXAMPLES)))
    placed = {key: one for opened in (before, after) for key, one in _placed(opened, chosen)}
    for title, total, found in chosen:
        examples = (_example(change, placed[change.key]) for change in found)
        yield Group(title, total, tuple(examples))


def _placed(
    opened: OpenedDataset, chosen: Sequence[tuple[str, int, Sequence[ImageChange | CaptionChange]]]
) -> Iterator[tuple[str, tuple[OpenedDataset, Placed]]]:
    wanted = {change.key for _, _, changes in chosen for change in changes}
    for one in opened.samples():
        if one.row.key in wanted:
            yield one.row.key, (opened, one)


def _example(change: ImageChange | CaptionChange, placed: tuple[OpenedDataset, Placed]) -> Example:
    opened, one = placed
    if isinstance(change, CaptionChange):
        before, after = (tuple(text for text in (side,) if text) for side in (change.before, change.after))
    else:
        before, after = (change.captions, ()) if change.kind == "removed" else ((), change.captions)
    is_small = max(one.row.width_px, one.row.height_px) <= SMALL_PX
    return Example(change.file_name, change.reason, before, after, thumbnail(opened.image(one)), is_small)


def spread(items: Sequence[ItemT], number: int) -> list[ItemT]:
    """Return at most so many of some items, evenly from the first to the last."""
    if len(items) <= number:
        return list(items)
    return [items[index * (len(items) - 1) // (number - 1)] for index in range(number)]
