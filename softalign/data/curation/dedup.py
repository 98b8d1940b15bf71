"""Duplicates of images already accepted: exact by sha256, perceptual by Hamming distance of 256-bit hashes.

Near hashes are found by the pigeonhole principle: of d + 1 disjoint bit bands, two hashes that differ in at most d bits
agree in at least one. So a look-up reads what agrees in one of d + 1 bands instead of all hashes, and misses nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

from softalign.config.curation import FilterConfig
from softalign.data.curation.hashing import HASH_BITS
from softalign.data.curation.keyed_numbers import KEY_MASK, KeyedNumbers
from softalign.data.curation.rejections import Reason, Rejection
from softalign.data.curation.samples import Sample

_DIGEST_BYTES = 32
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
        self._numbers = [KeyedNumbers() for _ in self._bands]
        self._max_distance, self._num_bytes = max_distance, (num_bits + 7) // 8
        self._values = bytearray()

    def find(self, value: int) -> int | None:
        """Return the first hash found within the distance, or None."""
        place = self.find_place(value)
        return None if place is None else self.value(place)

    def find_place(self, value: int) -> int | None:
        """Return which of the added hashes ``find`` returns, counted from 0; None where there is none."""
        for (shift, mask), numbers in zip(self._bands, self._numbers, strict=True):
            for place in numbers.find((value >> shift) & mask & KEY_MASK):
                difference = self.value(place) ^ value
                if not (difference >> shift) & mask and difference.bit_count() <= self._max_distance:
                    return place
        return None

    def value(self, place: int) -> int:
        """Return one of the added hashes."""
        start = place * self._num_bytes
        return int.from_bytes(self._values[start : start + self._num_bytes], "big")

    def add(self, value: int) -> None:
        """Remember a hash."""
        place = len(self._values) // self._num_bytes
        for (shift, mask), numbers in zip(self._bands, self._numbers, strict=True):
            numbers.add((value >> shift) & mask & KEY_MASK, place)
        self._values += value.to_bytes(self._num_bytes, "big")


class DuplicateFilter:
    """Rejects images that repeat an accepted one; the first in source order stays.

    Holds 127 bytes per accepted image at a distance of 2 bits (``tracemalloc``, 100,000 images).
    """

    def __init__(self, config: FilterConfig) -> None:
        self._drops_exact = config.drop_exact_duplicates
        self._digests, self._places = bytearray(), KeyedNumbers()
        self._num_copies = Counter[str]()  # beyond the first, where exact duplicates are kept
        self._near = HammingIndex(config.max_hash_distance) if config.max_hash_distance >= 0 else None

    def check(self, sample: Sample) -> Rejection | None:
        """Return why a sample is a duplicate of an accepted one, or None."""
        if self._is_known(sample.image_digest):
            if not self._drops_exact:
                return None
            detail = f"{_SAME_BYTES}{sample.image_digest[:SHOWN_DIGITS]}"
            return Rejection(sample.source, sample.filename, "exact_duplicate", detail)
        place = self._near.find_place(sample.perceptual_hash) if self._near else None
        if self._near is None or place is None:
            return None
        distance = (self._near.value(place) ^ sample.perceptual_hash).bit_count()
        detail = f"{distance} bits from image {self._digest(place).hex()[:SHOWN_DIGITS]}"
        return Rejection(sample.source, sample.filename, "perceptual_duplicate", detail)

    def accept(self, image_digest: str, perceptual_hash: int) -> int:
        """Remember an accepted image and return how many with its bytes there are now."""
        if self._is_known(image_digest):
            self._num_copies[image_digest] += 1
            return 1 + self._num_copies[image_digest]
        digest, place = bytes.fromhex(image_digest), len(self._digests) // _DIGEST_BYTES
        self._digests += digest
        self._places.add(_key_of(digest), place)
        if self._near is not None:
            self._near.add(perceptual_hash)
        return 1

    def _is_known(self, image_digest: str) -> bool:
        digest = bytes.fromhex(image_digest)
        return any(self._digest(place) == digest for place in self._places.find(_key_of(digest)))

    def _digest(self, place: int) -> bytes:
        return bytes(self._digests[place * _DIGEST_BYTES : (place + 1) * _DIGEST_BYTES])


def _key_of(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")
