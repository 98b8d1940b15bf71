"""The layout that the autoencoder's latents are trained towards: which channel says what about a cell.

Left to itself the autoencoder packs colour and shape into one or two of its 16 directions (measured: one direction
held 99 % of the between-colour scatter, and shapes differed by a fifth of what colours did). A denoiser then learns
colours within 15 k images and shapes not within 50 k. With a code in which shapes and colours are equally far apart,
both are learned at the same pace. The code is a training target only: the encoder reads it off the pixels.

Shape legend: N scenes, 16 channels, 4x4 cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softalign.shapes.scenes import BACKGROUND_RANGE, COLORS, GRID_SIZE, JITTER_PX, RADIUS_RANGE_PX, SHAPES, Scene

NUM_CHANNELS: Final = 16
WORD_AMPLITUDE: Final = 6.0
PRESENCE_AMPLITUDE: Final = 4.0
GEOMETRY_AMPLITUDE: Final = 1.0
SHADE_AMPLITUDE: Final = 0.5

_SHAPE_START: Final = 0
_COLOR_START: Final = len(SHAPES)
_PRESENCE: Final = _COLOR_START + len(COLORS)
_OFFSET_X, _OFFSET_Y, _RADIUS, _SHADE = range(_PRESENCE + 1, _PRESENCE + 5)


def latent_targets(scenes: Sequence[Scene]) -> NDArray[np.float32]:
    """Return targets (N, 16, 4, 4) of the latents, before scaling; the last channel carries nothing."""
    targets = np.zeros((len(scenes), NUM_CHANNELS, GRID_SIZE, GRID_SIZE), dtype=np.float32)
    low, high = BACKGROUND_RANGE
    shades = np.array([scene.background for scene in scenes], dtype=np.float32)
    targets[:, _SHADE] = (SHADE_AMPLITUDE * (2 * shades - low - high) / (high - low))[:, None, None]
    middle_radius, half_range = sum(RADIUS_RANGE_PX) / 2, (RADIUS_RANGE_PX[1] - RADIUS_RANGE_PX[0]) / 2
    for cells, scene in zip(targets, scenes, strict=True):
        for obj in scene.objects:
            cell = cells[:, obj.row, obj.column]
            cell[_SHAPE_START:_COLOR_START] = _centered_one_hot(SHAPES.index(obj.shape), len(SHAPES))
            cell[_COLOR_START:_PRESENCE] = _centered_one_hot(COLORS.index(obj.color), len(COLORS))
            cell[_PRESENCE] = PRESENCE_AMPLITUDE
            cell[_OFFSET_X] = GEOMETRY_AMPLITUDE * obj.offset_x_px / JITTER_PX
            cell[_OFFSET_Y] = GEOMETRY_AMPLITUDE * obj.offset_y_px / JITTER_PX
            cell[_RADIUS] = GEOMETRY_AMPLITUDE * (obj.radius_px - middle_radius) / half_range
    return targets


def _centered_one_hot(index: int, size: int) -> NDArray[np.float32]:
    vector = np.full(size, -WORD_AMPLITUDE / size, dtype=np.float32)
    vector[index] += WORD_AMPLITUDE
    return vector
