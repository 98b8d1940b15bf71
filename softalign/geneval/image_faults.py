"""Whether an image file is whole."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

_END_MARKS = {"PNG": b"\0\0\0\0IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
"""How whole files end: a PNG with its last chunk and its checksum. WebP says its length instead."""
_TINY_BYTES = 1000
"""A PNG of nothing but grey has 1.5 kB at 512 x 512 (measured, at the highest compression)."""


def image_fault(path: Path) -> str:
    """Return why a file is no whole image; empty if it is one.

    A file with a readable head and its end in place is whole: no cut file has that, and reading every byte costs more
    than all of the scoring. What has neither, and what is too small to be a picture, is checked and decoded.
    """
    try:
        size_bytes = path.stat().st_size
        if not size_bytes:
            return "0 bytes"
        with Image.open(path) as image:
            if size_bytes > _TINY_BYTES and _has_end(path, image.format, size_bytes):
                return ""
            image.verify()
        with Image.open(path) as image:  # verify leaves nothing to decode
            image.load()
    except UnidentifiedImageError:
        return "no image"
    except Exception as error:  # what damaged bytes raise is not bounded
        return getattr(error, "strerror", None) or f"damaged: {error}"
    return ""


def _has_end(path: Path, image_format: str | None, size_bytes: int) -> bool:
    with path.open("rb") as file:
        if image_format == "WEBP":
            return int.from_bytes(file.read(8)[4:], "little") + 8 == size_bytes
        mark = _END_MARKS.get(image_format or "")
        file.seek(-len(mark or b"."), os.SEEK_END)
        return file.read() == mark
