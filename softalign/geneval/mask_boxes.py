"""The box around a mask: a polygon, or COCO's run lengths, as numbers or packed in a string.

Run lengths count pixels down the columns, one column after the other, beginning with those outside of the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any


def box_of_mask(mask: Any) -> list[float]:
    """Return x0, y0, x1, y1 in pixels; of run lengths the last pixel's far edge is included.

    Raises:
        ValueError: an empty mask, or one of another form (a matrix, say).
    """
    if isinstance(mask, dict) and {"size", "counts"} <= set(mask):
        counts = mask["counts"]
        return _box_of_runs(_unpacked(counts) if isinstance(counts, str) else counts, height=mask["size"][0])
    if isinstance(mask, list) and mask and all(_is_polygon(part) for part in mask):
        xs, ys = (list(chain.from_iterable(part[axis::2] for part in mask)) for axis in (0, 1))
        return [min(xs), min(ys), max(xs), max(ys)]
    raise ValueError("a mask is read as polygons or COCO's run lengths only: give a box")


def _is_polygon(part: Any) -> bool:
    is_flat = isinstance(part, list) and all(isinstance(value, int | float) for value in part)
    return is_flat and len(part) >= 6 and len(part) % 2 == 0 and not set(part) <= {0, 1}  # a matrix's row


def _box_of_runs(counts: Sequence[int], height: int) -> list[float]:
    ends = list(accumulate(counts))
    runs = [(ends[index - 1], ends[index] - 1) for index in range(1, len(ends), 2) if counts[index]]
    if not runs:
        raise ValueError("an empty mask")
    within = [divmod(first, height)[0] == divmod(last, height)[0] for first, last in runs]
    tops = [first % height if is_one else 0 for (first, _), is_one in zip(runs, within, strict=True)]
    bottoms = [last % height if is_one else height - 1 for (_, last), is_one in zip(runs, within, strict=True)]
    return [runs[0][0] // height, min(tops), runs[-1][1] // height + 1, max(bottoms) + 1]


def _unpacked(text: str) -> list[int]:
    """Return packed run lengths: five bits a character, the lowest first; from the fourth on less the last but one."""
    counts: list[int] = []
    value = shift = 0
    for code in text.encode():
        bits = code - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (1 << shift) if bits & 16 else 0
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
