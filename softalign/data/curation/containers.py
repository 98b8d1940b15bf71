"""What of an image file decodes its pixels, with EXIF data and profile apart: metadata never decides over pixels.

Pillow refuses a whole picture for a text chunk, a profile, an eXIf or a pHYs chunk that it does not like, and takes a
JPEG file with a second picture in it (MPO) for another format. So the decoder gets the picture alone.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from softalign.data.curation.png_colour import KINDS, png_profile

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_EXIF = b"Exif\0\0"
_ICC = b"ICC_PROFILE\0"
_START_OF_SCAN = b"\xff\xda"
_READ_CHUNKS = {b"eXIf", b"acTL", *KINDS}
_LOWER_CASE = 0x20
"""The bit of a PNG chunk's first letter that says that pixels can be decoded without the chunk."""
_JPEG_METADATA = {0xFE, *range(0xE1, 0xF0)} - {0xEE}
"""Comments and application segments but APP0 (JFIF) and APP14 (Adobe), which say how colours are coded."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file's parts.

    Attributes:
        pixels: what the decoder needs, as a file of the same format.
        exif: EXIF data; empty where there is none.
        profile: the ICC profile; empty where there is none, or it is not whole.
        is_animated: a PNG file that says it has further pictures; others say so to the decoder.
    """

    pixels: bytes
    exif: bytes = b""
    profile: bytes = b""
    is_animated: bool = False


def picture_of(data: bytes) -> Picture:
    """Return a PNG or JPEG file's picture without its metadata; other files as they are.

    What is not laid out as the format has it is left as it is: the decoder shall judge it.
    """
    if data.startswith(_PNG):
        return _png_picture(data)
    return _jpeg_picture(data) if data.startswith(_JPEG) else Picture(data)


def _png_picture(data: bytes) -> Picture:
    kept, found, start = [_PNG], dict[bytes, bytes](), len(_PNG)
    while start + 12 <= len(data):
        kind, end = data[start + 4 : start + 8], start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data) or not kind.isalpha():
            break
        if kind in _READ_CHUNKS and zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big"):
            found.setdefault(kind, data[start + 8 : end - 4])
        if not kind[0] & _LOWER_CASE or kind == b"tRNS":
            kept.append(data[start:end])
        start = end
        if kind == b"IEND":
            break
    return Picture(
        b"".join([*kept, data[start:]]),
        found.get(b"eXIf", b""),
        png_profile(found),
        _num_frames(found.get(b"acTL", b"")) > 1,
    )


def _num_frames(animation: bytes) -> int:
    return int.from_bytes(animation[:4], "big")


def _jpeg_picture(data: bytes) -> Picture:
    kept, exif, start = [_JPEG], b"", len(_JPEG)
    parts: dict[int, tuple[int, bytes]] = {}
    while data[start : start + 2] != _START_OF_SCAN:
        marker, end = data[start + 1 : start + 2], start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if data[start : start + 1] != b"\xff" or not b"\xc0" <= marker <= b"\xfe" or end > len(data):
            return Picture(data, exif, _joined(parts))
        if marker == b"\xe1" and data.startswith(_EXIF, start + 4):
            exif = exif or data[start + 4 : end]
        if marker == b"\xe2" and data.startswith(_ICC, start + 4) and end >= start + 18:
            parts.setdefault(data[start + 16], (data[start + 17], data[start + 18 : end]))
        if marker[0] not in _JPEG_METADATA:
            kept.append(data[start:end])
        start = end
    return Picture(b"".join([*kept, data[start:]]), exif, _joined(parts))


def _joined(parts: dict[int, tuple[int, bytes]]) -> bytes:
    """Return the profile that segments hold, each with its number (from 1) and how many there are."""
    numbers = range(1, len(parts) + 1)
    is_whole = all(number in parts and parts[number][0] == len(parts) for number in numbers)
    return b"".join(parts[number][1] for number in numbers) if is_whole else b""
