"""Images as Mask2Former's official configuration gives them to the model (mmdet's test pipeline).

Shape legend: B images, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

SHORT_SIDE_PX = 800
LONG_SIDE_PX = 1333
"""An image is scaled until its short side is the one or its long side the other (official configuration)."""
PAD_MULTIPLE_PX = 32
MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True)
class ImageSize:
    """Height and width in pixels."""

    height_px: int
    width_px: int


def scaled_size(size: ImageSize) -> ImageSize:
    """Return the size an image is scaled to, its aspect kept; halves are rounded up."""
    short, long = sorted((size.height_px, size.width_px))
    scale = min(SHORT_SIDE_PX / short, LONG_SIDE_PX / long)
    return ImageSize(*(max(1, math.floor(side * scale + 0.5)) for side in (size.height_px, size.width_px)))


def to_pixel_values(
    images: Sequence[NDArray[np.uint8]], device: torch.device | str = "cpu"
) -> Float[torch.Tensor, "B 3 H W"]:
    """Return images of one size as the model's input: scaled bilinearly, normalised, zeros to the right and below.

    Scaled pixels are rounded to whole numbers, as scaled 8-bit images are.
    """
    stacked: UInt8[torch.Tensor, "B H W 3"] = torch.from_numpy(np.stack(images))
    pixels_BCHW = stacked.to(device).permute(0, 3, 1, 2).float()
    size = scaled_size(ImageSize(*pixels_BCHW.shape[-2:]))
    scaled = torch.nn.functional.interpolate(
        pixels_BCHW, size=(size.height_px, size.width_px), mode="bilinear", align_corners=False
    )
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN_RGB, STD_RGB))
    normalised = ((scaled + 0.5).floor().clamp(0, 255) - mean) / std
    right, below = -size.width_px % PAD_MULTIPLE_PX, -size.height_px % PAD_MULTIPLE_PX
    return torch.nn.functional.pad(normalised, (0, right, 0, below))
