"""What a detector returns, whatever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from softalign.artifacts import Frozen


class Detection(Frozen):
    """One detected object: box in pixels (x0, y0, x1, y1), score 0..1, colour where the detector names one."""

    class_name: str
    score: float
    box: tuple[float, float, float, float]
    color: str | None = None


class Detector(Protocol):
    """Finds objects in images."""

    def __call__(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Return the detections of each image (uint8, H W 3)."""
        ...
