"""From an image file to the VAE's input: upright sRGB, shortest side to the resolution, centre crop, [-1, 1]."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from softalign.data.curation.colour import DECODER
from softalign.data.curation.images import decoded_rgb

PREPROCESSING = f"shortest side by Lanczos, centre crop, version 1; {DECODER}"
"""Part of every latent's identity: change it whenever ``preprocess`` gives other pixels."""


def preprocess(data: bytes, resolution_px: int) -> Tensor:
    """Return an image file's pixels (3, resolution, resolution), float32 in [-1, 1].

    Raises:
        UnreadableImageError: the file cannot be decoded.
    """
    with decoded_rgb(data) as image:
        pixels_HWC = np.asarray(resize_and_crop(image, resolution_px), dtype=np.float32)
    return torch.from_numpy(pixels_HWC / 127.5 - 1.0).permute(2, 0, 1).contiguous()


def resize_and_crop(image: Image.Image, resolution_px: int) -> Image.Image:
    """Return the centre square of an image, scaled so that the shorter side has ``resolution_px`` pixels.

    Lanczos with Pillow's support window, so that shrinking is antialiased.
    """
    scale = resolution_px / min(image.size)
    width, height = (max(resolution_px, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - resolution_px) // 2, (height - resolution_px) // 2
    return image.crop((left, top, left + resolution_px, top + resolution_px))
