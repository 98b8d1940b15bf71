"""A table of caption changes as people write it, turned into edits of listings.

Its columns are ``action`` (add, change, remove), one of ``key``, ``file_name`` and ``image_digest``, ``caption`` (what
comes), ``before`` (what goes; of ``remove`` empty: all captions of the image), and ``source`` where a file name is one
of several sources. A key or digest means the image, wherever it is listed; a file name that listing alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast, get_args

from softalign.data.curation.applying import Action, shown
from softalign.data.curation.changes import CaptionEdit, Changes, Listing, cannot_apply
from softalign.data.curation.names import has_surrogates
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.rejections import ItemError
from softalign.data.curation.samples import ListedSample
from softalign.data.versions.changes_file import IDENTIFIERS, read_rows
from softalign.data.versions.named_images import Listings, NamedImages, listings_of
from softalign.store.read_ahead import map_ahead

ACTIONS: tuple[str, ...] = get_args(Action)
NUM_READERS = 4
_UNUSED = {"add": "before", "remove": "caption"}
_OTHER = {"add": "`change` puts a caption in another's place", "remove": "the caption that goes is in `before`"}


def read_changes(
    uri: str,
    dataset: OpenedDataset,
    sources: Iterable[str],
    listed: Iterable[ListedSample] | None = None,
    *,
    repair: bool = True,
) -> tuple[CaptionEdit, ...]:
    """Return the edits that a table of changes asks for.

    Args:
        uri: of the table; its name ends with ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.
        dataset: what is changed; says which image a key or digest is.
        sources: names of the dataset's sources: an image that is not there yet belongs to the only one, or to that of
            the column ``source``.
        listed: the dataset's samples as its sources list them; with them it is found out what does not fit there.
        repair: whether the dataset shows captions mended.

    Raises:
        MissingInputError: there is no such file.
        DataError: it cannot be read, or some of its rows cannot be applied; all of them are listed.
    """
    images = NamedImages(dataset, tuple(sources))
    edits, findings = dict[int, CaptionEdit](), dict[int, str]()
    for number, row in enumerate(read_rows(uri), start=1):
        found = row if isinstance(row, str) else _edit(row, images)
        if isinstance(found, str):
            findings[number] = found
        else:
            edits[number] = found
    findings |= _contradictions(edits, repair=repair)
    if listed is not None:
        findings = _unfit(edits, listed, dataset, repair=repair) | findings
    if findings:
        raise cannot_apply([f"row {number}: {text}" for number, text in sorted(findings.items())], uri)
    return tuple(edits.values())


def _edit(row: Mapping[str, str], images: NamedImages) -> CaptionEdit | str:
    """Return a row's edit, or why it has none."""
    action = row.get("action", "").lower()
    named = [name for name in IDENTIFIERS if row.get(name)]
    found: Listings | str
    if action not in ACTIONS:
        found = f"action {action[:80]!r} is none of {', '.join(ACTIONS)}"
    elif len(named) != 1:
        found = f"one of {', '.join(IDENTIFIERS)} names the image, not {' and '.join(named) or 'none'}"
    elif any(has_surrogates(text) for text in row.values()):
        found = "no valid Unicode"
    elif row.get(_UNUSED.get(action, "")):
        found = f"{action} has no {_UNUSED[action]}: {_OTHER[action]}"
    else:
        found = images.find(named[0], row[named[0]], row.get("source", ""), is_added=action == "add")
    if isinstance(found, str):
        return found
    return CaptionEdit(
        source=found[0].source,
        file_name=found[0].file_name,
        action=cast(Action, action),
        before=row.get("before", ""),
        caption=row.get("caption", ""),
        copies=found[1:],
    )


def _contradictions(edits: Mapping[int, CaptionEdit], *, repair: bool) -> dict[int, str]:
    """Return the rows that say what another one says, or take back what it says, by their number."""
    findings: dict[int, str] = {}
    said, changed, gone = dict[CaptionEdit, int](), dict[str, int](), dict[tuple[str, str], int]()
    for number, edit in edits.items():
        place = edit.listing.model_dump_json()
        before, is_of_all = shown(edit.before, repair=repair), edit.action == "remove" and not edit.before
        if (first := said.setdefault(edit, number)) != number:
            findings[number] = f"the same as row {first}"
        elif is_of_all and place in changed:
            findings[number] = f"removes all captions of an image that row {changed[place]} changes"
        elif before and (place, before) in gone:
            findings[number] = f"row {gone[place, before]} says what becomes of {before[:80]!r}"
        elif not is_of_all:
            changed.setdefault(place, number)
        if before:
            gone.setdefault((place, before), number)
        gone.pop((place, shown(edit.caption, repair=repair)), None)  # which is there again
    return findings


def _unfit(
    edits: Mapping[int, CaptionEdit], listed: Iterable[ListedSample], dataset: OpenedDataset, *, repair: bool
) -> dict[int, str]:
    """Return the rows that do not fit what the sources list, by their number."""
    changes, numbers = Changes(tuple(edits.values()), repair=repair), tuple(edits)
    for _ in changes.over(listed):
        pass
    findings = {numbers[index]: text for index, text in changes.findings().items()}
    findings |= dict(_with_hints(edits, findings, dataset, repair=repair))
    missing = {Listing(source=one.source, file_name=one.filename) for one in _missing(changes.new_images)}
    for number, edit in edits.items():
        if edit.listing in missing:
            findings[number] = f"{edit.file_name[:80]!r} is not listed, and there is no such image in {edit.source}"
    return findings


def _missing(images: Sequence[ListedSample]) -> Iterator[ListedSample]:
    for one, is_missing in zip(images, map_ahead(_is_missing, images, NUM_READERS), strict=True):
        if is_missing:
            yield one


def _is_missing(one: ListedSample) -> bool:
    try:
        one.images.read(one.filename)
    except ItemError as error:
        return error.flaw.reason == "missing_image"
    return False


def _with_hints(
    edits: Mapping[int, CaptionEdit], findings: Mapping[int, str], dataset: OpenedDataset, *, repair: bool
) -> Iterator[tuple[int, str]]:
    """Yield the findings of rows whose caption the dataset has of another listing of the image, saying so."""
    wanted: dict[Listing, list[int]] = {}
    for number in findings:
        if edits[number].before and not edits[number].copies:
            wanted.setdefault(edits[number].listing, []).append(number)
    for one in dataset.samples() if wanted else ():
        row = one.row
        for place in listings_of(row) if len(set(row.caption_files)) > 1 else ():
            for number in wanted.get(place, ()):
                before = shown(edits[number].before, repair=repair)
                if before in row.captions:
                    listing = row.caption_files[row.captions.index(before)]
                    hint = f"it is listed for {listing[:80]!r}: name that, or the image by key"
                    yield number, f"{findings[number]}; {hint}"
