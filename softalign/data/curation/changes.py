"""Changes to captions: what is added, reworded or taken away after a table was handed over, applied to its listing.

The changes that ``curation.caption_changes`` names are JSON lines of ``CaptionEdit``, written by ``softalign refresh``.
Curating a table with its changes, and refreshing a dataset of the table, list the same samples in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from softalign.artifacts import Frozen, canonical_json
from softalign.config.curation import CurationConfig
from softalign.data.curation.applying import Action, applied, plain, shown
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.names import flaw_of_name, is_url
from softalign.data.curation.samples import ListedSample
from softalign.data.curation.sources import list_sources
from softalign.data.curation.urls import UrlImages
from softalign.errors import DataError
from softalign.problems import problems
from softalign.store.files import read_bytes

MAX_SHOWN = 1000
"""Findings that an error lists; it says how many there are."""
MAX_IN_LINE = 3
"""More findings have a line each."""


class Listing(Frozen):
    """Where an image is listed: a source's name, and a file name of it."""

    source: str
    file_name: str


class CaptionEdit(Frozen):
    """One caption that comes, is reworded, or goes.

    Attributes:
        source: the source's name within the dataset, such as ``0-coco``.
        file_name: the image's, as its source names it; ``add`` may name one that no table lists, after which it is.
        before: of ``change`` and ``remove``: the caption that goes; of ``remove`` empty: all of the image's.
        caption: of ``add`` and ``change``: the caption that comes.
        copies: where else the image is listed, if the change is of the image and not of one listing: what goes, goes
            there too.
    """

    source: str
    file_name: str
    action: Action
    before: str = ""
    caption: str = ""
    copies: tuple[Listing, ...] = ()

    @property
    def listing(self) -> Listing:
        """Where the image that is named is listed."""
        return Listing(source=self.source, file_name=self.file_name)


def to_lines(edits: Iterable[CaptionEdit]) -> bytes:
    """Return the stored form: the same edits are the same bytes."""
    dumps = (edit.model_dump(mode="json", exclude=None if edit.copies else {"copies"}) for edit in edits)
    return b"".join(canonical_json(dump) + b"\n" for dump in dumps)


def read_edits(uris: Iterable[str]) -> tuple[CaptionEdit, ...]:
    """Return the edits of some files, one after the other.

    Raises:
        MissingInputError: a file is not there.
        DataError: a line is no edit.
    """
    found = []
    for uri in uris:
        for number, line in enumerate(read_bytes(uri).splitlines(), start=1):
            try:
                found.append(CaptionEdit.model_validate_json(line))
            except ValidationError as error:
                raise DataError(
                    "A line of the caption changes cannot be read.",
                    expected="what `softalign refresh` wrote",
                    found=problems(error, CaptionEdit)[0],
                    where=f"{uri}:{number}",
                    fix="name the file that `softalign refresh` printed",
                ) from error
    return tuple(found)


def list_samples_of(
    config: CurationConfig, work_path: Path, on_total: Callable[[int], None] = lambda _total: None
) -> Iterator[ListedSample]:
    """Return the samples of all sources, their captions as the changes leave them; see ``list_sources``.

    Raises:
        MissingInputError: a table, an image folder or a file of changes is not there.
        DataError: a table or a change cannot be used.
    """
    edits = read_edits(config.caption_changes)
    if not edits:
        return list_sources(config.sources, work_path, on_total)
    repair = config.filters.captions.repair

    def listing() -> Iterator[ListedSample]:
        return changed_listing(list_sources(config.sources, work_path), edits, repair=repair)

    on_total(sum(1 for _ in listing()))  # and all of them apply
    return listing()


def changed_listing(
    listed: Iterable[ListedSample], edits: Sequence[CaptionEdit], *, repair: bool = True
) -> Iterator[ListedSample]:
    """Yield listed samples with their captions changed; images that no table lists come at the end of their source.

    Raises:
        DataError: an edit cannot be applied; says which, all at once, after the last sample.
    """
    changes = Changes(edits, repair=repair)
    yield from changes.over(listed)
    if findings := changes.findings():
        said = [f"{edits[number].file_name}: {text}" for number, text in sorted(findings.items())]
        raise cannot_apply(said, "curation.caption_changes")


def cannot_apply(findings: Sequence[str], where: str) -> DataError:
    """Return the error of changes that do not fit; ``findings`` say why, one for each."""
    said = [*findings[:MAX_SHOWN], *([f"and {len(findings) - MAX_SHOWN:,} more"] if len(findings) > MAX_SHOWN else [])]
    return DataError(
        f"{len(findings):,} caption changes cannot be applied; nothing was changed.",
        expected="captions and images that are there, and new captions that are not",
        found="; ".join(said) if len(said) <= MAX_IN_LINE else "\n    ".join(["", *said]),
        where=where,
        fix="correct these rows, or leave them out",
    )


@dataclass(slots=True)
class _Pending:
    """An edit, and what was met of it: its listing, the caption that goes, the one that comes."""

    edit: CaptionEdit
    is_placed: bool = False
    has_before: bool = False
    has_after: bool = False


class Changes:
    """Applies edits to a listing that goes by, once.

    Args:
        edits: in their order.
        repair: whether the dataset shows captions mended.

    Attributes:
        new_images: those that no table lists, as far as they went by.
    """

    def __init__(self, edits: Sequence[CaptionEdit], *, repair: bool) -> None:
        self._repair, self._sources = repair, set[str]()
        self._folders, self._urls = dict[str, ImageFolder](), dict[str, UrlImages]()
        self.new_images: list[ListedSample] = []
        self._pending = [_Pending(edit) for edit in edits]
        self._at: dict[Listing, list[_Pending]] = {}
        for one in self._pending:
            for place in (one.edit.listing, *one.edit.copies):
                self._at.setdefault(place, []).append(one)

    def over(self, listed: Iterable[ListedSample]) -> Iterator[ListedSample]:
        """Yield the samples with their captions changed."""
        last: ListedSample | None = None
        for one in listed:
            if last is not None and last.source != one.source:
                yield from self._new_images(last.source)
            last = one
            self._note_images(one)
            place = Listing(source=one.source, file_name=one.filename)
            pending = self._at.get(place, []) if one.flaw is None else []
            yield replace(one, captions=self._applied(one.captions, place, pending)) if pending else one
        if last is not None:
            yield from self._new_images(last.source)

    def findings(self) -> dict[int, str]:
        """Return why edits could not be applied, by their number; good after the last sample."""
        found = ((number, self._finding(one)) for number, one in enumerate(self._pending))
        return {number: text for number, text in found if text}

    def _applied(self, captions: tuple[object, ...], place: Listing, pending: list[_Pending]) -> tuple[object, ...]:
        for one in pending:
            edit, is_own = one.edit, one.edit.listing == place
            is_added = is_own and not one.is_placed  # of listings with one name the first
            result = applied(captions, edit.action, edit.before, edit.caption, repair=self._repair, is_added=is_added)
            one.is_placed |= is_own
            one.has_before |= result.has_before
            one.has_after |= result.has_after
            captions = result.captions
        return captions

    def _note_images(self, one: ListedSample) -> None:
        """Note where a source's images are that have names of their own; others are in its table."""
        if isinstance(one.images, ImageFolder) and one.images.uri:
            self._folders.setdefault(one.source, one.images)
        elif isinstance(one.images, UrlImages):
            self._urls.setdefault(one.source, one.images)

    def _new_images(self, source: str) -> Iterator[ListedSample]:
        self._sources.add(source)
        for place, pending in self._at.items():
            added = [one for one in pending if one.edit.action == "add" and one.edit.listing == place]
            if place.source != source or not added or any(one.is_placed for one in added):
                continue
            of_urls = self._urls.get(source) if is_url(place.file_name) else None
            if (images := of_urls or self._folders.get(source)) is not None:
                captions = self._applied((), place, pending)
                flaw = None if of_urls else flaw_of_name(place.file_name)
                self.new_images.append(ListedSample(source, place.file_name, images, captions, flaw))
                yield self.new_images[-1]

    def _finding(self, one: _Pending) -> str:
        edit, after = one.edit, shown(one.edit.caption, repair=self._repair)
        said = ""
        if edit.source not in self._sources:
            said = f"no such source: {edit.source}"
        elif edit.action != "remove" and not after:
            said = "an empty caption"
        elif edit.action == "change" and not edit.before:
            said = f"which caption becomes {after[:80]!r} is not said"
        elif edit.action != "add" and edit.before and not one.has_before:
            said = f"no caption {plain(edit.before)[:80]!r} to {edit.action}"
        elif edit.action != "remove" and one.has_after:
            said = f"{after[:80]!r} is there already"
        elif not one.is_placed:  # where it is new its source has no place for it
            is_new = edit.action == "add"
            said = f"no such image in {edit.source}" + (", which holds its images itself" if is_new else "")
        elif edit.action == "remove" and not one.has_before:
            said = "no caption is left to remove"
        return said
