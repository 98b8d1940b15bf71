"""Why an item is not in the dataset: a closed set of reasons, so that equal inputs give equal lists.

An item (one image of a table, with its captions) that cannot be used raises ``ItemError``, wherever that is found out;
``pipeline.read_sample`` alone makes a rejection of it. Everything else that is raised ends the curation: a store that
does not answer, a full disk, no memory, a fault of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from softalign.errors import DataError

UNLIMITED = 1 << 40
"""A number of bytes that no image has."""
Reason = Literal[
    "access_refused",
    "aspect_ratio",
    "caption_empty",
    "caption_not_text",
    "caption_repeated",
    "caption_too_long",
    "caption_too_short",
    "corrupt_image",
    "exact_duplicate",
    "missing_image",
    "name_not_text",
    "no_caption",
    "no_caption_left",
    "no_name",
    "perceptual_duplicate",
    "too_many_bytes",
    "too_many_pixels",
    "too_small",
    "unknown_image",
    "unreadable_file",
    "unsafe_path",
    "unsupported_format",
    "unusable_entry",
]


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with an item.

    Attributes:
        reason: what it counts under.
        detail: in words of ours, or an exception's class or error code: the same for the same input on any machine,
            so no text of a library, no address, no path of this machine.
    """

    reason: Reason
    detail: str = ""


class ItemError(DataError):
    """One item cannot be used; the others can."""

    def __init__(self, reason: Reason, detail: str = "", *, expected: str = "") -> None:
        super().__init__("An item cannot be used.", expected=expected, found=f"{reason} {detail}".strip())
        self.flaw = Flaw(reason, detail)


def too_large(max_bytes: int) -> ItemError:
    """Return the error of an image file with more bytes than are allowed."""
    return ItemError("too_many_bytes", f"more than {max_bytes} bytes")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an image (``caption_index`` -1) or one of its captions is not in the dataset.

    Attributes:
        file_name: as the table gives it, what is no text in it escaped; the row's place where it gives none.
        reason: one of ``Reason``.
        detail: see ``Flaw``.
    """

    source: str
    file_name: str
    reason: Reason
    detail: str = ""
    caption_index: int = -1
