"""Repairs of captions: pure functions from a text to the one that was meant, each named as what it mends."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from softalign.data.curation.names import has_surrogates
from softalign.data.curation.rejections import Reason

MAX_REPAIRED_CHARS = 20_000
"""Longer texts are no captions; they are left as they are, for the filter of lengths."""
_MAX_ESCAPES = 3
"""How often crawls escape what was escaped already."""
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_TAGS = (
    "a abbr article b big blockquote body br center cite code dd del div dl dt em figcaption figure font footer "
    "h1 h2 h3 h4 h5 h6 head header hr html i iframe img ins label li link mark meta nav ol p picture pre q s script "
    "section small source span strike strong style sub sup svg table tbody td tfoot th thead title tr tt u ul video"
).replace(" ", "|")
_TAG = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>|<!--[^<>]*-->", re.IGNORECASE)
"""Of HTML alone: ``<3`` and ``<person>`` stay."""
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")
"""Soft hyphens, zero-width spaces, marks of byte order and direction; not the joiners that scripts and emoji need."""


def mojibake(text: str) -> str:
    """Return a text whose UTF-8 was read as another encoding as it was before; see the package ftfy."""
    if text.isascii():  # of which ftfy says so, after some time
        return text
    from ftfy import fix_encoding

    return str(fix_encoding(text))


def html_markup(text: str) -> str:
    """Return a text with HTML's entities as characters, and without its tags."""
    for _ in range(_MAX_ESCAPES):
        plain = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
        if plain == text:
            break
        text = plain
    return _TAG.sub(" ", text)


def invisible(text: str) -> str:
    """Return a text without characters that cannot be seen and only turn or hide others."""
    return _INVISIBLE.sub("", text)


REPAIRS: dict[Reason, Callable[[str], str]] = {
    "repaired_mojibake": mojibake,
    "repaired_html": html_markup,
    "repaired_invisible": invisible,
}


def repaired(text: str) -> tuple[str, tuple[Reason, ...]]:
    """Return a caption as it was meant, and what was mended; white space is collapsed, which does not count.

    Args:
        text: valid Unicode.
    """
    text = " ".join(text.split())
    if len(text) > MAX_REPAIRED_CHARS:
        return text, ()
    names = []
    for name, repair in REPAIRS.items():
        mended = " ".join(repair(text).split())
        if mended != text:
            names.append(name)
        text = mended
    return text, tuple(names)


def meant(raw: object, *, repair: bool) -> tuple[str, tuple[Reason, ...]]:
    """Return a table's cell as it is checked, and what was mended; empty where it is no text.

    Args:
        raw: the cell.
        repair: whether anything but white space is mended.
    """
    if not isinstance(raw, str) or has_surrogates(raw):
        return "", ()
    return repaired(raw) if repair else (" ".join(raw.split()), ())
