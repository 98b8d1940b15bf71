"""What a comparison of two datasets finds, as records."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from softalign.artifacts import Frozen, ReasonCount

Kind = Literal["added", "removed", "changed"]
KINDS: tuple[Kind, ...] = ("added", "removed", "changed")


class Side(Frozen):
    """One of the two datasets."""

    name: str
    stage_key: str
    digest: str
    uri: str
    num_samples: int
    num_captions: int
    num_val_samples: int
    num_seen: int
    total_bytes: int
    rejected: tuple[ReasonCount, ...]


class ImageChange(Frozen):
    """An image that came, went, or has other content under its name; ``key`` is of the later dataset if there."""

    kind: Kind
    reason: str
    key: str
    source: str
    file_name: str
    captions: tuple[str, ...]


class CaptionChange(Frozen):
    """A caption of an image that both datasets have; ``before`` or ``after`` is empty where it came or went."""

    kind: Kind
    reason: str
    key: str
    source: str
    file_name: str
    before: str
    after: str


class Compared(Frozen):
    """One distribution in both datasets, over the same labels."""

    title: str
    unit: str
    labels: tuple[str, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


class SourceReweighted(Frozen):
    """A source that both datasets have, with another weight in each; 1: its images are drawn once an epoch."""

    source: str
    before: float
    after: float

    def to_text(self) -> str:
        """Return it in words."""
        return f"source {self.source}: weight {self.before:g} became {self.after:g}"


class DatasetDiff(Frozen):
    """All that differs.

    Attributes:
        is_child: B is a refresh of A.
        num_moved: images that are held out in one dataset only.
        num_reweighted: captions that both have, and draw more or less often beside the image's others.
        source_weights: sources that both have and draw more or less often.
    """

    before: Side
    after: Side
    is_child: bool
    num_images_kept: int
    num_captions_kept: int
    num_moved: int
    num_reweighted: int
    source_weights: tuple[SourceReweighted, ...]
    images: tuple[ImageChange, ...]
    captions: tuple[CaptionChange, ...]
    distributions: tuple[Compared, ...]

    @property
    def is_same(self) -> bool:
        """Whether both have the same images, sides, captions and weights."""
        return not (self.images or self.captions or self.num_moved or self.num_reweighted or self.source_weights)

    def counts(self, of: Literal["images", "captions"]) -> tuple[tuple[Kind, str, int], ...]:
        """Return how many images or captions changed, by kind and reason."""
        changes: tuple[ImageChange | CaptionChange, ...] = self.images if of == "images" else self.captions
        found = Counter((change.kind, change.reason) for change in changes)
        ordered = sorted(found.items(), key=lambda item: (KINDS.index(item[0][0]), -item[1], item[0][1]))
        return tuple((kind, reason, count) for (kind, reason), count in ordered)

    def to_text(self) -> str:
        """Return the counts for people."""
        lines = [
            f"{side.name} {side.stage_key[:12]}: {side.num_samples:,} images, {side.num_captions:,} captions"
            for side in (self.before, self.after)
        ]
        lines.append(f"kept: {self.num_images_kept:,} images, {self.num_captions_kept:,} captions")
        for of in ("images", "captions"):
            lines += [f"{of} {kind}: {count:,} ({reason})" for kind, reason, count in self.counts(of)]
        lines += [f"on another side of the split: {self.num_moved:,} images"] if self.num_moved else []
        lines += [f"weighted otherwise: {self.num_reweighted:,} captions"] if self.num_reweighted else []
        lines += [one.to_text() for one in self.source_weights]
        return "\n".join([*lines, *(["no difference"] if self.is_same else [])])
