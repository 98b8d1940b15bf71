"""Detector of the embedded world: palette segmentation, connected components, template overlap.

It needs no weights, and plays the part that Mask2Former and CLIP's colour classifier play in GenEval. A detection's
score is a fixed increasing function of its overlap with the best template, so that GenEval's thresholds (0.3, and 0.9
for counting) separate well-drawn shapes from blobs.

Shape legend: H x W pixels, T templates, windows of 12x12 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from softalign.geneval.detections import Detection
from softalign.shapes.scenes import COLORS, PALETTE, RADIUS_RANGE_PX, SHAPES, shape_coverage

_WINDOW_PX: Final = 12
_OFFSETS_PX: Final = (-0.5, -0.25, 0.0, 0.25)
_RADII_PX: Final = tuple(np.linspace(RADIUS_RANGE_PX[0] - 0.15, RADIUS_RANGE_PX[1] + 0.1, 5))
_MIN_AREA_PX: Final = 4
_MIN_COVERAGE: Final = 0.5
_IOU_AT_HALF: Final = 0.62
_IOU_SLOPE: Final = 0.05
_PALETTE_TABLE = np.array([PALETTE[color] for color in COLORS], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Templates:
    """Coverages (T, 144) of every shape at every radius and sub-pixel offset, their areas (T,) and shapes (T,)."""

    coverage: NDArray[np.float32]
    area: NDArray[np.float32]
    shape_index: NDArray[np.intp]


@cache
def _templates() -> _Templates:
    geometry = np.array([(x, y, r) for r in _RADII_PX for y in _OFFSETS_PX for x in _OFFSETS_PX], dtype=np.float32)
    coverage = np.concatenate(
        [shape_coverage(shape, geometry, _WINDOW_PX).reshape(len(geometry), -1) for shape in SHAPES]
    )
    return _Templates(coverage, coverage.sum(axis=1), np.repeat(np.arange(len(SHAPES)), len(geometry)))


def score_of_iou(iou: float) -> float:
    """Return the score 0..1 of a template overlap: 0.5 at 0.62, 0.3 at 0.58, 0.9 at 0.73.

    Calibrated on renders and autoencoder reconstructions, which lie above 0.75, against blurred blobs below 0.6.
    """
    return 1.0 / (1.0 + math.exp(-(iou - _IOU_AT_HALF) / _IOU_SLOPE))


def detect(image: NDArray[np.uint8]) -> list[Detection]:
    """Return the objects of an image (H, W, 3) uint8, best score first; boxes in pixels.

    Raises:
        ValueError: the image is not uint8 RGB.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected a uint8 image (H, W, 3), found {image.dtype} {image.shape}")
    pixels = image.astype(np.float32)
    background = np.median(pixels.reshape(-1, 3), axis=0)
    directions = _PALETTE_TABLE - background
    # Coverage of each pixel by each palette colour over the background, and what that mixture leaves unexplained.
    offsets = pixels - background
    coverage = np.clip(offsets @ directions.T / (directions**2).sum(axis=1), 0.0, 1.0)
    residual = ((offsets[:, :, None, :] - coverage[..., None] * directions) ** 2).sum(axis=-1)
    color_index = residual.argmin(axis=-1)
    best_coverage = np.take_along_axis(coverage, color_index[..., None], axis=-1)[..., 0]
    strength = np.minimum(best_coverage * np.sqrt((directions**2).sum(axis=1))[color_index], 255.0)
    is_object = (best_coverage > _MIN_COVERAGE) | (strength > 90.0)
    labels, count = ndimage.label(is_object)
    detections = [
        found
        for label, region in enumerate(ndimage.find_objects(labels), start=1)
        if (found := _classify(labels, label, region, color_index, coverage)) is not None
    ]
    return sorted(detections, key=lambda detection: -detection.score) if count else []


def _classify(
    labels: NDArray[np.int32],
    label: int,
    region: tuple[slice, slice],
    color_index: NDArray[np.intp],
    coverage: NDArray[np.float32],
) -> Detection | None:
    """Return the best class of one component, or None where it is too small to be an object."""
    rows, columns = region
    member = labels[region] == label
    if member.sum() < _MIN_AREA_PX:
        return None
    weights = np.take_along_axis(coverage[region], color_index[region][..., None], axis=-1)[..., 0] * member
    votes = np.bincount(color_index[region].ravel(), weights=weights.ravel(), minlength=len(COLORS))
    color = int(votes.argmax())
    top = round((rows.start + rows.stop - _WINDOW_PX) / 2)
    left = round((columns.start + columns.stop - _WINDOW_PX) / 2)
    padded_labels = np.pad(labels, _WINDOW_PX)
    padded_coverage = np.pad(coverage[..., color], _WINDOW_PX)
    window = (
        slice(top + _WINDOW_PX, top + 2 * _WINDOW_PX),
        slice(left + _WINDOW_PX, left + 2 * _WINDOW_PX),
    )
    is_mine = padded_labels[window] == label
    # The antialiased rim belongs to the object; other objects' pixels do not.
    near = ndimage.binary_dilation(is_mine, structure=np.ones((3, 3))) & (is_mine | (padded_labels[window] == 0))
    observed = (padded_coverage[window] * near).ravel()
    outside = float(member.sum()) - float(is_mine.sum())
    templates = _templates()
    shared = np.minimum(templates.coverage, observed).sum(axis=1)
    iou = shared / (templates.area + observed.sum() + outside - shared)
    best = int(iou.argmax())
    return Detection(
        class_name=SHAPES[int(templates.shape_index[best])],
        score=round(score_of_iou(float(iou[best])), 4),
        box=(float(columns.start), float(rows.start), float(columns.stop), float(rows.stop)),
        color=COLORS[color],
    )


class ShapesDetector:
    """The detector as a callable over images, as ``softalign.geneval`` expects."""

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        """Return the detections of each uint8 image (H, W, 3); see ``detect``."""
        return [detect(image) for image in images]
