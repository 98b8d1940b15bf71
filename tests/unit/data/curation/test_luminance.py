"""What perceptual hashes are of: the values of Pillow's own reduction."""

import numpy as np
import pytest
from PIL import Image

from softalign.data.curation.luminance import MAX_SIDE_PX, reduced_luminance

SIDE = 64


def picture(width, height, levels):
    """Return noise, which tells each pixel's weight from every other's; of two levels it overshoots."""
    values = np.random.default_rng(width + height).integers(0, levels, (height, width, 3)) * (255 // (levels - 1))
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize(
    ("width", "height"),
    [
        (640, 480), (480, 640), (427, 640), (65, 65), (66, 68), (66, 69), (131, 70), (300, 536), (300, 537), (997, 101),
        (MAX_SIDE_PX, 80), (MAX_SIDE_PX + 1, 80), (SIDE, 300), (300, SIDE), (40, 90), (90, 40), (1, 200), (200, 1),
    ],
)  # fmt: skip
def test_it_is_pillows_reduction_value_for_value(width, height, levels):
    image = picture(width, height, levels)
    reduced = reduced_luminance(image, SIDE)
    assert (reduced.mode, reduced.size) == ("L", (SIDE, SIDE))
    np.testing.assert_array_equal(reduced, image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
