"""Duplicates of images already accepted: exact by sha256, perceptual by Hamming distance of 256-bit hashes.

Near hashes are found by the pigeonhole principle: of d + 1 disjoint bit bands, two hashes that differ in at most d bits
agree in at least one. So a look-up reads d + 1 buckets instead of all hashes, and misses nothing.
"""

from __future__ import annotations

import re
from itertools import pairwise

from softalign.config.curation import FilterConfig
from softalign.data.curation.images import HASH_BITS
from softalign.data.curation.rejections import Reason, Rejection
from softalign.data.curation.samples import Sample

SHOWN_DIGITS = 16
"""Of an image's digest, hexadecimal: 64 bits, enough to tell the images of a dataset apart."""
_SAME_BYTES = "same bytes as image "
_KEPT = re.compile(rf"(same bytes|\d+ bits)(?: as| from) image ([0-9a-f]{{{SHOWN_DIGITS}}})")
"""What is said of duplicates of either kind, in ``DuplicateFilter.check``."""
DUPLICATE: frozenset[Reason] = frozenset({"exact_duplicate", "perceptual_duplicate"})


def twin_of(rejection: Rejection) -> tuple[str, str] | None:
    """Return the first digits of the image that a duplicate was left out for, and how far it is; None of others."""
    match = _KEPT.fullmatch(rejection.detail) if rejection.reason in DUPLICATE else None
    return (match[2], match[1]) if match else None


def duplicate_of(rejection: Rejection) -> str:
    """Return the first digits of the image whose bytes a rejected image has; empty for another rejection."""
    twin = twin_of(rejection) if rejection.reason == "exact_duplicate" else None
    return twin[0] if twin else ""


class HammingIndex:
    """Finds an earlier hash within ``max_distance`` bits.

    Args:
        max_distance: bits that may differ; a large one makes short bands and so slow look-ups, never wrong ones.
        num_bits: length of the hashes.
    """

    def __init__(self, max_distance: int, num_bits: int = HASH_BITS) -> None:
        num_bands = max_distance + 1
        edges = [num_bits * band // num_bands for band in range(num_bands + 1)]
        self._bands = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._buckets: list[dict[int, list[int]]] = [{} for _ in self._bands]
        self._max_distance = max_distance

    def find(self, value: int) -> int | None:
        """Return the first hash found within the distance, or None."""
        for (shift, mask), buckets in zip(self._bands, self._buckets, strict=True):
            for candidate in buckets.get((value >> shift) & mask, ()):
                if (candidate ^ value).bit_count() <= self._max_distance:
                    return candidate
        return None

    def add(self, value: int) -> None:
        """Remember a hash."""
        for (shift, mask), buckets in zip(self._bands, self._buckets, strict=True):
            buckets.setdefault((value >> shift) & mask, []).append(value)


class DuplicateFilter:
    """Rejects images that repeat an accepted one; the first in source order stays.

    Holds about 900 bytes per accepted image, the count of its key included (measured: ``tests.bench.scale``).
    """

    def __init__(self, config: FilterConfig) -> None:
        self._drops_exact = config.drop_exact_duplicates
        self._digests: set[str] = set()
        self._near = HammingIndex(config.max_hash_distance) if config.max_hash_distance >= 0 else None
        self._digest_of_hash: dict[int, str] = {}

    def check(self, sample: Sample) -> Rejection | None:
        """Return why a sample is a duplicate of an accepted one, or None."""
        if sample.image_digest in self._digests:
            if not self._drops_exact:
                return None
            detail = f"{_SAME_BYTES}{sample.image_digest[:SHOWN_DIGITS]}"
            return Rejection(sample.source, sample.filename, "exact_duplicate", detail)
        near = self._near.find(sample.perceptual_hash) if self._near else None
        if near is None:
            return None
        distance = (near ^ sample.perceptual_hash).bit_count()
        detail = f"{distance} bits from image {self._digest_of_hash[near][:SHOWN_DIGITS]}"
        return Rejection(sample.source, sample.filename, "perceptual_duplicate", detail)

    def accept(self, image_digest: str, perceptual_hash: int) -> None:
        """Remember an accepted image."""
        self._digests.add(image_digest)
        if self._near is not None:
            self._near.add(perceptual_hash)
            self._digest_of_hash.setdefault(perceptual_hash, image_digest)
