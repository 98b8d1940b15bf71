"""The page of one dataset: what was seen and kept, what was left out and why, and what it is like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from softalign.artifacts import DatasetManifest
from softalign.data.curation.dedup import SHOWN_DIGITS, twin_of
from softalign.data.curation.published import OpenedDataset, Placed
from softalign.data.curation.rejections import Rejection
from softalign.data.versions.distributions import (
    ASPECT_RATIOS,
    CAPTIONS_PER_IMAGE,
    SIDES_PX,
    Bins,
    Captions,
    Distribution,
)
from softalign.data.versions.pages.diff_page import spread
from softalign.data.versions.pages.rendering import SMALL_PX, template, thumbnail

MAX_SAMPLES = 36
MAX_GROUPS = 24
MAX_NAMES = 5
"""Examples of a reason, and duplicates of an image that are named."""
_STEPS = (
    ("entries of the table that cannot be used", {"name_not_text", "no_name", "unsafe_path", "unusable_entry"}),
    ("entries of captions whose image is not listed", {"unknown_image"}),
    ("no caption that can be used", {"no_caption", "no_caption_left"}),
    ("image not readable", {"access_refused", "missing_image", "unreadable_file"}),
    ("image not decodable", {"corrupt_image", "too_many_pixels", "unsupported_format"}),
    ("filtered", set[str]()),
    ("duplicates", {"exact_duplicate", "perceptual_duplicate"}),
)
"""What items are lost at, in this order; a reason that no step names is a filter's."""


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """How many images one step took, of how many, and how many went on."""

    label: str
    num_lost: int
    num_left: int
    share_left: float
    share_lost: float


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """One reason, how many images or captions it took, and some of them by name and detail."""

    of: str
    reason: str
    count: int
    examples: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """What one source gave."""

    source: str
    num_images: int
    num_captions: int
    num_images_lost: int
    num_captions_lost: int
    size_bytes: int
    weight: float


@dataclass(frozen=True, slots=True)
class Shown:
    """One image of the dataset; ``twins`` are names and distances of those left out for it."""

    name: str
    facts: str
    captions: tuple[str, ...]
    src: str
    is_small: bool
    twins: tuple[tuple[str, str], ...] = ()
    num_twins: int = 0


def render_dataset(opened: OpenedDataset) -> str:
    """Return the page of a dataset; the same dataset is the same bytes.

    Raises:
        IntegrityError: a list or an image is not what was published.
        StorageUnavailableError: the store did not answer.
    """
    manifest, rejections = opened.manifest, opened.rejections()
    twins = _twins(rejections)
    largest = sorted(twins, key=lambda digits: -len(twins[digits]))[:MAX_GROUPS]
    tally = _Tally(manifest.num_samples, largest)
    for one in opened.samples():
        tally.add(one)
    return template("dataset.html.j2").render(
        manifest=manifest,
        funnel=list(_funnel(manifest, rejections)),
        reasons=list(_reasons(rejections)),
        sources=list(_sources(tally, rejections, {one.source: one.weight for one in manifest.weights})),
        distributions=tally.distributions(),
        groups=[
            _shown(opened, tally.kept[digits], tuple(twins[digits][:MAX_NAMES]), len(twins[digits]))
            for digits in largest
            if digits in tally.kept
        ],
        num_groups=len(twins),
        samples=[_shown(opened, one) for one in tally.shown],
    )


class _Tally:
    """What one look at each sample gathers: memory does not grow with the dataset.

    Args:
        num_samples: how many there are.
        wanted: first digits of the digests of images that are shown with their duplicates.
    """

    def __init__(self, num_samples: int, wanted: Sequence[str]) -> None:
        self._places, self._wanted = set(spread(range(num_samples), MAX_SAMPLES)), set(wanted)
        self._num_seen = 0
        self.shown: list[Placed] = []
        self.kept: dict[str, Placed] = {}
        self.images, self.captions, self.size_bytes = Counter[str](), Counter[str](), Counter[str]()
        self._shorter = Bins("Shorter side", "images by px", SIDES_PX)
        self._longer = Bins("Longer side", "images by px", SIDES_PX)
        self._ratios = Bins("Aspect ratio", "images by width / height", ASPECT_RATIOS)
        self._numbers = Bins("Captions per image", "images by captions", CAPTIONS_PER_IMAGE)
        self._texts = Captions()

    def add(self, one: Placed) -> None:
        """Take over a sample."""
        row = one.row
        if self._num_seen in self._places:
            self.shown.append(one)
        self._num_seen += 1
        if row.image_digest[:SHOWN_DIGITS] in self._wanted:
            self.kept.setdefault(row.image_digest[:SHOWN_DIGITS], one)
        self.images[row.source] += 1
        self.captions[row.source] += len(row.captions)
        self.size_bytes[row.source] += row.size_bytes
        self._shorter.add(min(row.width_px, row.height_px))
        self._longer.add(max(row.width_px, row.height_px))
        self._ratios.add(row.width_px / row.height_px)
        self._numbers.add(len(row.captions))
        for caption in row.captions:
            self._texts.add(caption)

    def distributions(self) -> list[Distribution]:
        """Return what images and captions are like."""
        bins = (self._shorter, self._longer, self._ratios, self._numbers)
        return [*(one.distribution() for one in bins), *self._texts.distributions()]


def _funnel(manifest: DatasetManifest, rejections: Sequence[Rejection]) -> Iterator[FunnelStep]:
    """Yield the steps that took something; images only."""
    reasons = Counter(one.reason for one in rejections if one.caption_index < 0)
    named = set[str]().union(*(names for _, names in _STEPS))
    left, seen = manifest.num_seen, max(1, manifest.num_seen)
    for label, names in _STEPS:
        lost = sum(count for reason, count in reasons.items() if (reason in names if names else reason not in named))
        if lost:
            left -= lost
            yield FunnelStep(label, lost, left, left / seen, lost / seen)


def _reasons(rejections: Sequence[Rejection]) -> Iterator[ReasonRow]:
    found: dict[tuple[str, str], list[Rejection]] = {}
    for one in rejections:
        found.setdefault(("captions" if one.caption_index >= 0 else "images", one.reason), []).append(one)
    for (of, reason), items in sorted(found.items(), key=lambda item: (item[0][0] != "images", -len(item[1]), item[0])):
        examples = tuple((one.file_name, one.detail, one.caption) for one in spread(items, MAX_NAMES))
        yield ReasonRow(of, reason, len(items), examples)


def _sources(tally: _Tally, rejections: Sequence[Rejection], weights: Mapping[str, float]) -> Iterator[SourceRow]:
    lost = Counter((one.source, one.caption_index < 0) for one in rejections)
    for name in sorted({*tally.images, *(source for source, _ in lost)}):
        yield SourceRow(
            source=name,
            num_images=tally.images[name],
            num_captions=tally.captions[name],
            num_images_lost=lost[name, True],
            num_captions_lost=lost[name, False],
            size_bytes=tally.size_bytes[name],
            weight=weights.get(name, 1.0),
        )


def _twins(rejections: Sequence[Rejection]) -> dict[str, list[tuple[str, str]]]:
    """Return duplicates by the first digits of the kept image's digest: names, and distances with sources."""
    found: dict[str, list[tuple[str, str]]] = {}
    for one in rejections:
        if twin := twin_of(one):
            digits, distance = twin
            found.setdefault(digits, []).append((one.file_name, f"{distance}, in {one.source}"))
    return found


def _shown(opened: OpenedDataset, one: Placed, twins: tuple[tuple[str, str], ...] = (), num_twins: int = 0) -> Shown:
    row = one.row
    facts = f"{row.width_px} × {row.height_px} px, {row.extension}, {row.split}, {one.shard}"
    is_small = max(row.width_px, row.height_px) <= SMALL_PX
    picture = thumbnail(opened.image(one))
    return Shown(row.file_name, facts, tuple(row.captions), picture, is_small, twins, num_twins)
