"""The small grey picture that perceptual hashes are of: Pillow's Lanczos, value for value, in two thirds of its time.

Pillow reduces a row with whole-number weights and one multiplication at a time. The same sums are exact in float64 (at
most 2**31), so they are matrix products here. The weights are asked of Pillow itself; where it rounds otherwise one
day, hashes change with it, and the test that compares both fails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_SIDE_PX = 2048
"""Pillow reduces what is longer, or as short as the result: such sides are rare, or quickly done."""
_LANCZOS_SUPPORT = 3.0
_ONE = 1 << 22
"""Pillow's weights of 8-bit images are multiples of its inverse."""
_OUTPUTS_AT_ONCE = 8
_STRIP_PIXELS = 1 << 15
"""Fit a core's cache as float64, and no BLAS takes threads for a product of them."""


@dataclass(frozen=True)
class _Band:
    """Some outputs next to one another: which pixels of a row they are of, and with what weights."""

    first: int
    last: int
    weights: NDArray[np.float64]


def reduced_luminance(image: Image.Image, side_px: int) -> Image.Image:
    """Return an image's luminance as a square: ``image.convert("L").resize((side_px, side_px), LANCZOS)``."""
    grey = image.convert("L")
    spare_width, spare_height = (side - side_px for side in grey.size)
    rows_come_first = spare_height <= 2 * spare_width  # as Pillow has it; each of the two passes rounds
    if not rows_come_first or min(grey.size) <= side_px or max(grey.size) > MAX_SIDE_PX:
        return grey.resize((side_px, side_px), Image.Resampling.LANCZOS)
    narrow = _with_shorter_rows(np.asarray(grey), side_px)
    return Image.fromarray(np.ascontiguousarray(_with_shorter_rows(narrow.T, side_px).T))


def _with_shorter_rows(pixels: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    height, width = pixels.shape
    sums, step = np.empty((height, length)), max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        strip = pixels[top : top + step].astype(np.float64)
        for number, band in enumerate(_bands(width, length)):
            at = number * _OUTPUTS_AT_ONCE
            sums[top : top + step, at : at + _OUTPUTS_AT_ONCE] = strip[:, band.first : band.last] @ band.weights
    return np.clip(np.floor((sums + _ONE // 2) / _ONE), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def _bands(width: int, length: int) -> tuple[_Band, ...]:
    """Return the weights that a row of ``length`` pixels is made with.

    Pillow reduces combs, whose teeth are further apart than the pixels of an output: each output is one tooth's weight.
    """
    scale = width / length
    span = 2 * math.ceil(_LANCZOS_SUPPORT * scale) + 2
    columns = np.arange(width)
    combs = np.zeros((span, width), dtype=np.int32)
    combs[columns % span, columns] = _ONE
    found = np.asarray(Image.fromarray(combs).resize((length, span), Image.Resampling.LANCZOS))
    starts = [max(0, int((number + 0.5 - _LANCZOS_SUPPORT) * scale)) for number in range(length)]
    bands = []
    for at in range(0, length, _OUTPUTS_AT_ONCE):
        numbers = range(at, min(at + _OUTPUTS_AT_ONCE, length))
        first, last = starts[numbers[0]], min(width, starts[numbers[-1]] + span)
        weights = np.zeros((last - first, len(numbers)))
        for place, number in enumerate(numbers):
            own = np.arange(starts[number], min(width, starts[number] + span))
            weights[own - first, place] = found[own % span, number]
        bands.append(_Band(first, last, weights))
    return tuple(bands)
