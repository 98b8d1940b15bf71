"""Filters of samples: pure functions that return why one is refused, each under its own name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from softalign.config.curation import FilterConfig
from softalign.data.captions.similarity import are_near_duplicates
from softalign.data.curation.caption_filters import CAPTION_FILTERS
from softalign.data.curation.caption_repairs import meant
from softalign.data.curation.decontamination import evaluation_prompts
from softalign.data.curation.dedup import HammingIndex
from softalign.data.curation.evaluation_images import evaluation_hashes
from softalign.data.curation.names import has_surrogates, shown_caption
from softalign.data.curation.rejections import Flaw, Reason, Rejection
from softalign.data.curation.repeated_texts import OnManyImages
from softalign.data.curation.samples import ListedSample, Sample, weight_of, with_weight

ImageFilter = Callable[[Sample, FilterConfig], str]
"""Returns what was found wrong, or an empty string."""


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


def load_evaluation_sets(config: FilterConfig) -> None:
    """Read the evaluation sets that the filters name, anew: once in a process, before its threads ask for them.

    Raises:
        MissingInputError: a file of prompts is not there.
        DataError: a file or folder holds no prompt or image, or a damaged one.
    """
    evaluation_prompts.cache_clear()
    evaluation_hashes.cache_clear()
    if config.captions.exclude_prompts:
        evaluation_prompts(config.captions.exclude_prompts)
    if config.exclude_images:
        _evaluation_hashes(config)


def image_of_evaluation(sample: Sample, config: FilterConfig) -> str:
    """Refuse images that are, or nearly are, one of those in ``exclude_images``."""
    if not config.exclude_images:
        return ""
    found = _evaluation_hashes(config).find(sample.perceptual_hash)
    return "" if found is None else f"{(found ^ sample.perceptual_hash).bit_count()} bits from an evaluation image"


IMAGE_FILTERS: dict[Reason, ImageFilter] = {
    "too_small": too_small,
    "aspect_ratio": aspect_ratio,
    "animated": animated,
    "image_of_evaluation": image_of_evaluation,
}


@dataclass(frozen=True, slots=True)
class CaptionVerdict:
    """The captions that passed, mended and with white space collapsed; why the others did not, and what was mended."""

    captions: tuple[str, ...]
    rejections: tuple[Rejection, ...]


def filter_captions(listed: ListedSample, config: FilterConfig) -> CaptionVerdict:
    """Mend and check every caption; an image without any, or with none left, is rejected itself."""
    kept: dict[str, None] = {}
    rejections = []
    for index, raw in enumerate(listed.captions):
        caption, repairs = meant(raw, repair=config.captions.repair)
        flaw = _flaw_of_caption(raw, caption, config) or flaw_beside(caption, kept, config)
        if flaw is None:
            kept[with_weight(caption, weight_of(raw))] = None
            notes = [(name, "") for name in repairs]
        else:
            notes = [(flaw.reason, flaw.detail)]
        text = shown_caption(raw.raw if isinstance(raw, OnManyImages) else raw)
        rejections += [Rejection(listed.source, listed.filename, *note, index, text) for note in notes]
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
    if isinstance(raw, OnManyImages):
        return Flaw("caption_on_many_images", f"more than {raw.most}")
    if isinstance(raw, bytes) or (isinstance(raw, str) and has_surrogates(raw)):
        return Flaw("caption_not_text", "no valid Unicode")
    if not isinstance(raw, str):
        return Flaw("caption_not_text", type(raw).__name__)
    if any(char < " " or char == "\x7f" for char in caption):
        return Flaw("caption_not_text", "control characters")
    for name, check in CAPTION_FILTERS.items():
        if detail := check(caption, config):
            return Flaw(name, detail)
    return None


def flaw_beside(caption: str, others: Iterable[str], config: FilterConfig) -> Flaw | None:
    """Return what is wrong with a caption beside the image's earlier ones."""
    if caption in others:
        return Flaw("caption_repeated")
    most = config.captions.max_similarity
    if most is not None and any(are_near_duplicates(caption, other, most) for other in others):
        return Flaw("caption_near_duplicate")
    return None


def _evaluation_hashes(config: FilterConfig) -> HammingIndex:
    return evaluation_hashes(config.exclude_images, max(0, config.max_hash_distance))
