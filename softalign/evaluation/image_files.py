"""An image file as the array that detectors, judges and metrics look at."""

from __future__ import annotations

from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def load_image(file: IO[bytes]) -> NDArray[np.uint8]:
    """Return an image file as uint8 (H, W, 3), its EXIF orientation applied."""
    with Image.open(file) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
