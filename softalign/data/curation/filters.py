"""Filters of samples: pure functions that return why one is refused, each under its own name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from softalign.config.curation import FilterConfig
from softalign.data.curation.names import has_surrogates
from softalign.data.curation.rejections import Flaw, Reason, Rejection
from softalign.data.curation.samples import ListedSample, Sample

ImageFilter = Callable[[Sample, FilterConfig], str]
"""Returns what was found wrong, or an empty string."""
CaptionFilter = Callable[[str, FilterConfig], str]


def too_small(sample: Sample, config: FilterConfig) -> str:
    """Refuse images whose shorter side is below ``min_side_px``."""
    side = min(sample.width_px, sample.height_px)
    return f"{side} px" if side < config.min_side_px else ""


def aspect_ratio(sample: Sample, config: FilterConfig) -> str:
    """Refuse images whose longer side is more than ``max_aspect_ratio`` times the shorter one."""
    ratio = max(sample.width_px, sample.height_px) / min(sample.width_px, sample.height_px)
    return f"{ratio:.2f}" if ratio > config.max_aspect_ratio else ""


def animated(sample: Sample, config: FilterConfig) -> str:
    """Refuse files with several pictures, if ``drop_animated`` asks for it; their first may be blank."""
    return "several pictures" if config.drop_animated and sample.is_animated else ""


def caption_empty(caption: str, config: FilterConfig) -> str:
    """Refuse captions without a character that can be seen."""
    return "" if any(char.isprintable() and char != " " for char in caption) else "nothing to be seen"


def caption_too_short(caption: str, config: FilterConfig) -> str:
    """Refuse captions below ``min_caption_chars`` characters."""
    return f"{len(caption)} characters" if len(caption) < config.min_caption_chars else ""


def caption_too_long(caption: str, config: FilterConfig) -> str:
    """Refuse captions above ``max_caption_chars`` characters."""
    return f"{len(caption)} characters" if len(caption) > config.max_caption_chars else ""


IMAGE_FILTERS: dict[Reason, ImageFilter] = {"too_small": too_small, "aspect_ratio": aspect_ratio, "animated": animated}
CAPTION_FILTERS: dict[Reason, CaptionFilter] = {
    "caption_empty": caption_empty,
    "caption_too_short": caption_too_short,
    "caption_too_long": caption_too_long,
}


@dataclass(frozen=True, slots=True)
class CaptionVerdict:
    """The captions that passed, with white space collapsed, and why the others did not."""

    captions: tuple[str, ...]
    rejections: tuple[Rejection, ...]


def filter_captions(listed: ListedSample, config: FilterConfig) -> CaptionVerdict:
    """Check every caption; an image with none left is rejected itself (``no_caption``, ``no_caption_left``)."""
    kept: dict[str, None] = {}
    rejections = []
    for index, raw in enumerate(listed.captions):
        caption = " ".join(raw.split()) if isinstance(raw, str) else ""
        flaw = _flaw_of_caption(raw, caption, config)
        if flaw is None and caption in kept:
            flaw = Flaw("caption_repeated")
        if flaw is None:
            kept[caption] = None
        else:
            rejections.append(Rejection(listed.source, listed.filename, flaw.reason, flaw.detail, index))
    if not kept:
        reason: Reason = "no_caption_left" if listed.captions else "no_caption"
        rejections.append(Rejection(listed.source, listed.filename, reason))
    return CaptionVerdict(tuple(kept), tuple(rejections))


def image_rejection(sample: Sample, config: FilterConfig) -> Rejection | None:
    """Return the first filter's rejection of an image, or None."""
    for name, check in IMAGE_FILTERS.items():
        if detail := check(sample, config):
            return Rejection(sample.source, sample.filename, name, detail)
    return None


def _flaw_of_caption(raw: object, caption: str, config: FilterConfig) -> Flaw | None:
    if isinstance(raw, bytes) or has_surrogates(caption):
        return Flaw("caption_not_text", "no valid Unicode")
    if not isinstance(raw, str):
        return Flaw("caption_not_text", type(raw).__name__)
    if any(char < " " or char == "\x7f" for char in caption):
        return Flaw("caption_not_text", "control characters")
    for name, check in CAPTION_FILTERS.items():
        if detail := check(caption, config):
            return Flaw(name, detail)
    return None
