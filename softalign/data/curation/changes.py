"""Changes to captions: what is added, reworded or taken away after a table was handed over, applied to its listing.

The changes that ``curation.caption_changes`` names are JSON lines of ``CaptionEdit``, written by ``softalign refresh``.
Curating a table with its changes, and refreshing a dataset of the table, list the same samples in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from softalign.artifacts import Frozen, canonical_json
from softalign.config.curation import CurationConfig
from softalign.data.curation.names import flaw_of_name
from softalign.data.curation.samples import ListedSample, weight_of, with_weight
from softalign.data.curation.sources import list_sources
from softalign.errors import DataError
from softalign.problems import problems
from softalign.store.files import read_bytes

Action = Literal["add", "change", "remove"]
MAX_SHOWN = 10
"""Findings that an error lists; it says how many there are."""


class CaptionEdit(Frozen):
    """One caption that comes, is reworded, or goes.

    Attributes:
        source: the source's name within the dataset, such as ``0-coco``.
        file_name: the image's, as its source names it; ``add`` may name one that no table lists, after which it is.
        before: of ``change`` and ``remove``: the caption that goes; of ``remove`` empty: all of the image's.
        caption: of ``add`` and ``change``: the caption that comes.
    """

    source: str
    file_name: str
    action: Action
    before: str = ""
    caption: str = ""


def to_lines(edits: Iterable[CaptionEdit]) -> bytes:
    """Return the stored form: the same edits are the same bytes."""
    return b"".join(canonical_json(edit.model_dump()) + b"\n" for edit in edits)


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


def plain(text: object) -> str:
    """Return a caption as curation keeps it: white space collapsed."""
    return " ".join(text.split()) if isinstance(text, str) else ""


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
    on_total(sum(1 for _ in changed_listing(list_sources(config.sources, work_path), edits)))  # and all of them apply
    return changed_listing(list_sources(config.sources, work_path), edits)


def changed_listing(listed: Iterable[ListedSample], edits: Iterable[CaptionEdit]) -> Iterator[ListedSample]:
    """Yield listed samples with their captions changed; images that no table lists come at the end of their source.

    Raises:
        DataError: an edit cannot be applied; says which, all at once, after the last sample.
    """
    pending: dict[tuple[str, str], list[CaptionEdit]] = {}
    for edit in edits:
        pending.setdefault((edit.source, edit.file_name), []).append(edit)
    findings: list[str] = []
    last: ListedSample | None = None
    for one in listed:
        if last is not None and last.source != one.source:
            yield from _new_images(last, pending, findings)
        last = one
        changes = pending.pop((one.source, one.filename), None) if one.flaw is None else None
        yield one if changes is None else replace(one, captions=_applied(one.captions, changes, findings))
    if last is not None:
        yield from _new_images(last, pending, findings)
    findings += [f"{source}: no such source, for {name}" for source, name in pending]
    if findings:
        raise cannot_apply(findings, "curation.caption_changes")


def cannot_apply(findings: list[str], where: str) -> DataError:
    """Return the error of changes that do not fit; ``findings`` say why, one for each."""
    more = f"; and {len(findings) - MAX_SHOWN:,} more" if len(findings) > MAX_SHOWN else ""
    return DataError(
        f"{len(findings):,} caption changes cannot be applied; nothing was changed.",
        expected="captions and images that are there, and new captions that are not",
        found="; ".join(findings[:MAX_SHOWN]) + more,
        where=where,
        fix="correct these rows, or leave them out",
    )


def _new_images(
    last: ListedSample, pending: dict[tuple[str, str], list[CaptionEdit]], findings: list[str]
) -> Iterator[ListedSample]:
    for source, name in [place for place in pending if place[0] == last.source]:
        captions = _applied((), pending.pop((source, name)), findings)
        yield replace(last, filename=name, captions=captions, flaw=flaw_of_name(name))


def _applied(captions: tuple[object, ...], edits: list[CaptionEdit], findings: list[str]) -> tuple[object, ...]:
    """Return an image's captions after its edits, in their places; what does not fit goes to ``findings``."""
    kept = list(captions)
    for edit in edits:
        texts, old, new = [plain(text) for text in kept], plain(edit.before), plain(edit.caption)
        if edit.action != "add" and old and old not in texts:
            findings.append(f"{edit.file_name}: no caption {old[:80]!r} to {edit.action}")
        elif edit.action != "remove" and (not new or (new in texts and new != old)):
            findings.append(f"{edit.file_name}: {'an empty caption' if not new else f'{new[:80]!r} is there already'}")
        elif edit.action == "add":
            kept.append(edit.caption)
        elif edit.action == "change" and old:
            first = texts.index(old)  # said twice it was one caption of the dataset
            kept = [text for place, text in enumerate(kept) if place == first or texts[place] != old]
            kept[first] = with_weight(edit.caption, weight_of(kept[first]))
        elif edit.action == "change":
            findings.append(f"{edit.file_name}: which caption becomes {new[:80]!r} is not said")
        else:
            kept = [text for text, found in zip(kept, texts, strict=True) if old and found != old]
    return tuple(kept)
