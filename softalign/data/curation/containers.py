"""What of an image file decodes its pixels, and its EXIF data apart: metadata shall never decide over pixels.

Pillow refuses a whole picture for a text chunk, a profile, an eXIf or a pHYs chunk that it does not like, and takes a
JPEG file with a second picture in it (MPO) for another format. So the decoder gets the picture alone.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_EXIF = b"Exif\0\0"
_START_OF_SCAN = b"\xff\xda"
_LOWER_CASE = 0x20
"""The bit of a PNG chunk's first letter that says that pixels can be decoded without the chunk."""
_JPEG_METADATA = {0xFE, *range(0xE1, 0xF0)} - {0xEE}
"""Comments and application segments but APP0 (JFIF) and APP14 (Adobe), which say how colours are coded."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file's parts: what the decoder needs, as a file of the same format, and EXIF data (empty: none)."""

    pixels: bytes
    exif: bytes = b""


def picture_of(data: bytes) -> Picture:
    """Return a PNG or JPEG file's picture without its metadata; other files as they are.

    What is not laid out as the format has it is left as it is: the decoder shall judge it.
    """
    if data.startswith(_PNG):
        return _png_picture(data)
    return _jpeg_picture(data) if data.startswith(_JPEG) else Picture(data)


def _png_picture(data: bytes) -> Picture:
    kept, exif, start = [_PNG], b"", len(_PNG)
    while start + 12 <= len(data):
        kind, end = data[start + 4 : start + 8], start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data) or not kind.isalpha():
            break
        if kind == b"eXIf" and zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big"):
            exif = exif or data[start + 8 : end - 4]
        if not kind[0] & _LOWER_CASE or kind == b"tRNS":
            kept.append(data[start:end])
        start = end
        if kind == b"IEND":
            break
    return Picture(b"".join([*kept, data[start:]]), exif)


def _jpeg_picture(data: bytes) -> Picture:
    kept, exif, start = [_JPEG], b"", len(_JPEG)
    while data[start : start + 2] != _START_OF_SCAN:
        marker, end = data[start + 1 : start + 2], start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if data[start : start + 1] != b"\xff" or not b"\xc0" <= marker <= b"\xfe" or end > len(data):
            return Picture(data, exif)
        if marker == b"\xe1" and data.startswith(_EXIF, start + 4):
            exif = exif or data[start + 4 : end]
        if marker[0] not in _JPEG_METADATA:
            kept.append(data[start:end])
        start = end
    return Picture(b"".join([*kept, data[start:]]), exif)
