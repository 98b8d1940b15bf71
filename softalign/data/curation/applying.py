"""One change to the captions of one listing of an image: which caption is meant, and what is left then.

A caption is named as its source has it or as the dataset shows it, mended and with white space collapsed: the same text
to whoever changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from softalign.data.curation.caption_repairs import meant
from softalign.data.curation.samples import weight_of, with_weight

Action = Literal["add", "change", "remove"]


@dataclass(frozen=True, slots=True)
class Applied:
    """A listing's captions after a change.

    Attributes:
        captions: as they are left.
        has_before: what goes was there.
        has_after: the caption that comes was there already.
    """

    captions: tuple[object, ...]
    has_before: bool = False
    has_after: bool = False


def applied(
    captions: tuple[object, ...], action: Action, before: str, after: str, *, repair: bool, is_added: bool = True
) -> Applied:
    """Return a listing's captions after a change; where the caption that goes is not there, as they were.

    Args:
        captions: as listed.
        action: what happens.
        before: the caption that goes; said twice it is one caption. Empty, of ``remove``: all of them.
        after: the caption that comes, in the place of the first that goes.
        repair: whether the dataset shows captions mended.
        is_added: of ``add``: this is the listing that the caption goes to.
    """
    going = _places(captions, before, repair=repair)
    there = _places(captions, after, repair=repair)
    left, has_before = captions, bool(going)
    if action == "add" and is_added and not there:
        left = (*captions, after)
    elif action == "change" and going:
        first = min(going)
        kept = ((place, text) for place, text in enumerate(captions) if place == first or place not in going)
        new = with_weight(after, weight_of(captions[first]))
        left = tuple(new if place == first else text for place, text in kept)
    elif action == "remove":
        left = tuple(text for place, text in enumerate(captions) if place not in going) if before else ()
        has_before = len(left) < len(captions)
    return Applied(left, has_before, bool(there))


def plain(text: object) -> str:
    """Return a caption with white space collapsed; empty where it is no text."""
    return " ".join(text.split()) if isinstance(text, str) else ""


def shown(text: object, *, repair: bool) -> str:
    """Return a caption as the dataset shows it; empty where it is none."""
    return meant(text, repair=repair)[0]


def _places(captions: Sequence[object], wanted: str, *, repair: bool) -> set[int]:
    """Return where a caption is, of which one may be the mended form of another."""
    if not wanted:
        return set()
    texts = [shown(text, repair=repair) for text in captions]
    wanted, mended = plain(wanted), shown(wanted, repair=repair)
    as_shown = {place for place, text in enumerate(texts) if text == wanted}
    as_listed = {place for place, text in enumerate(captions) if plain(text) == wanted}
    return as_shown or as_listed | {place for place, text in enumerate(texts) if mended and text == mended}
