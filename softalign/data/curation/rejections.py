"""Why an item is not in the dataset: a closed set of reasons, so that equal inputs give equal lists.

An item (one image of a table, with its captions) that cannot be used raises ``ItemError``, wherever that is found out;
``pipeline.read_sample`` alone makes a rejection of it. Everything else that is raised ends the curation: a store that
does not answer, a full disk, no memory, a fault of ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from softalign.artifacts import ReasonCount
from softalign.config.curation import Source
from softalign.errors import DataError, StorageUnavailableError

UNLIMITED = 1 << 40
"""A number of bytes that no image has."""
Reason = Literal[
    "access_refused",
    "animated",
    "aspect_ratio",
    "caption_boilerplate",
    "caption_clip_score",
    "caption_denied",
    "caption_empty",
    "caption_file_name",
    "caption_near_duplicate",
    "caption_no_words",
    "caption_not_allowed",
    "caption_not_text",
    "caption_of_evaluation",
    "caption_on_many_images",
    "caption_other_script",
    "caption_placeholder",
    "caption_repeated",
    "caption_too_long",
    "caption_too_short",
    "caption_url",
    "corrupt_image",
    "exact_duplicate",
    "image_class",
    "image_of_evaluation",
    "missing_image",
    "name_not_text",
    "no_caption",
    "no_caption_left",
    "no_name",
    "perceptual_duplicate",
    "repaired_html",
    "repaired_invisible",
    "repaired_mojibake",
    "too_many_bytes",
    "too_many_pixels",
    "too_small",
    "unknown_image",
    "unreadable_file",
    "unsafe_path",
    "unsupported_format",
    "unusable_entry",
]

REPAIRS: frozenset[Reason] = frozenset({"repaired_html", "repaired_invisible", "repaired_mojibake"})
"""What is said of captions that were mended, and so may be there."""


TO_TRY_AGAIN: frozenset[Reason] = frozenset({"access_refused", "missing_image", "unreadable_file"})
"""What may pass with time: failures of the place an image lies in, not of what it is."""


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
    """Why an image (``caption_index`` -1) or one of its captions is not in the dataset, or not as it was listed.

    Attributes:
        file_name: as the table gives it, what is no text in it escaped; the row's place where it gives none.
        reason: one of ``Reason``.
        detail: see ``Flaw``.
        caption: its first characters, what is no text in it escaped; empty of an image.
    """

    source: str
    file_name: str
    reason: Reason
    detail: str = ""
    caption_index: int = -1
    caption: str = ""


class Failures:
    """Counts images that their place did not give, and stops a run that more of them fail in than may.

    Args:
        max_share: of all images; 1: any number may fail.
    """

    def __init__(self, max_share: float) -> None:
        self._max_share, self._total, self._found = max_share, 0, Counter[str]()
        self._example = ""

    def expect(self, total: int) -> None:
        """Take over how many images there are."""
        self._total = total

    def count(self, rejections: Iterable[Rejection]) -> None:
        """Count those of some rejections that may pass with time.

        Raises:
            StorageUnavailableError: it is certain by now that more than the share fail.
        """
        for one in rejections:
            if one.reason in TO_TRY_AGAIN:
                self._found[one.reason] += 1
                self._example = f"{one.file_name[:200]!r}" + (f" ({one.detail})" if one.detail else "")
        number = self._found.total()
        if self._total and number > self._max_share * self._total:
            raise StorageUnavailableError(
                "Too many images could not be read.",
                expected=f"at most {self._max_share:.1%} of {self._total:,} images (runtime.max_failed_share)",
                found=", ".join(f"{reason}: {count:,}" for reason, count in sorted(self._found.items()))
                + f"; the last {self._example}",
                fix="mend their place and run again: finished shards are kept; or raise runtime.max_failed_share",
            )


def reason_counts(rejections: Sequence[Rejection]) -> tuple[ReasonCount, ...]:
    """Return how many there are of each reason, by its name."""
    counts = Counter(rejection.reason for rejection in rejections)
    return tuple(ReasonCount(reason=reason, count=count) for reason, count in sorted(counts.items()))


def nothing_left(rejections: Sequence[Rejection], num_seen: int, sources: Sequence[Source]) -> DataError:
    """Return the error of sources of which every image was rejected, with an example of the most frequent reason."""
    counts = Counter(rejection.reason for rejection in rejections)
    most_frequent = counts.most_common(1)[0][0]
    example = next(rejection for rejection in rejections if rejection.reason == most_frequent)
    shown = f"{example.file_name[:200]!r}" + (f" ({example.detail})" if example.detail else "")
    return DataError(
        "No sample is left after the filters.",
        expected="at least one sample",
        found=f"{num_seen} images; "
        + ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
        + f"; {most_frequent} such as {shown}",
        where=", ".join(f"{index}-{source.type}" for index, source in enumerate(sources)),
        fix="check images_uri and the tables (names are paths below images_uri; URLs are fetched with allow_urls of a "
        "table), or relax curation.filters",
    )
