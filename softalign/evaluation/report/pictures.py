"""The arms' images inside the page: pixel art as it is, photographs as thumbnails of a bounded total size."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

from PIL import Image

SMALL_IMAGE_PX = 64
"""Images up to this side are embedded byte for byte (about 1 kB each) and shown with hard pixels."""
PICTURE_BUDGET_BYTES = 22_000_000
"""All pictures together; base64 makes a page of about 30 MB of it, which browsers still open in a few seconds."""
_THUMBNAIL_SIDES_PX = (256, 192, 160, 128, 96, 64)
_THUMBNAIL_QUALITY = 70
_NUM_PROBES = 48

ReadFile = Callable[[], bytes]
"""Reads an image file; thousands of them are never held at once."""


def image_size(file: bytes) -> tuple[int, int]:
    """Return an image's width and height in pixels."""
    with Image.open(io.BytesIO(file)) as image:
        width, height = image.size
    return width, height


def data_uris(files: Sequence[ReadFile]) -> list[str]:
    """Return the images as data URIs; large ones as WebP thumbnails, as small as the budget demands."""
    if not files:
        return []
    if max(image_size(files[0]())) <= SMALL_IMAGE_PX:
        return [_data_uri("image/png", read()) for read in files]
    side = _thumbnail_side(files)
    return [_data_uri("image/webp", _thumbnail(read(), side)) for read in files]


def _thumbnail_side(files: Sequence[ReadFile]) -> int:
    """Return the largest side whose estimated total (from evenly spread probes) fits the budget."""
    probes = files[:: max(1, len(files) // _NUM_PROBES)]
    for side in _THUMBNAIL_SIDES_PX:
        mean_bytes = sum(len(_thumbnail(read(), side)) for read in probes) / len(probes)
        if mean_bytes * len(files) <= PICTURE_BUDGET_BYTES:
            return side
    return _THUMBNAIL_SIDES_PX[-1]


def _thumbnail(file: bytes, side_px: int) -> bytes:
    with Image.open(io.BytesIO(file)) as image:
        small = image.convert("RGB")
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=_THUMBNAIL_QUALITY, method=4)
    return buffer.getvalue()


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
