"""Image files that are damaged, disguised or laden with metadata, from a random generator."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageCms

Rng = np.random.Generator
T = TypeVar("T")

CHUNKS = b"tEXt zTXt iTXt eXIf pHYs gAMA cHRM iCCP tRNS acTL fcTL fdAT sBIT bKGD ABCD PLTE IDAT abcd".split()
MARKERS = (0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xDB, 0xC4, 0xDD)
SEGMENTS = (b"", b"JFIF\0", b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"Adobe", b"http://x\0")
STARTS = (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBPVP8 ", b"GIF89a", b"<html>", b"%PDF-1.4")
MODES = ("RGB", "RGB", "RGB", "L", "P", "RGBA", "LA", "1", "CMYK", "I;16")


def pick(rng: Rng, items: Sequence[T]) -> T:
    """Return one of some things."""
    return items[int(rng.integers(len(items)))]


def picture(rng: Rng) -> Image.Image:
    """Return a picture like no other, of any shape and mode."""
    width, height = (int(side) for side in rng.integers(29, 90, 2))
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    mode = pick(rng, MODES)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257)
    return image.convert(mode)


def encoded(rng: Rng, formats: tuple[str, ...] = ("PNG", "JPEG", "WEBP")) -> bytes:
    """Return a picture as a file of one of the formats."""
    chosen, image, buffer = pick(rng, formats), picture(rng), io.BytesIO()
    image = image.convert("RGB") if chosen != "PNG" and image.mode not in {"RGB", "L"} else image
    image = image.convert("L") if chosen == "PNG" and image.mode == "CMYK" else image
    image.save(buffer, chosen)
    return buffer.getvalue()


def noise(rng: Rng, most: int = 64) -> bytes:
    """Return a few random bytes."""
    return rng.bytes(int(rng.integers(0, most)))


def fuzzed(rng: Rng, data: bytes) -> bytes:
    """Replace, insert, overwrite or leave out some bytes."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        place, kind = int(rng.integers(0, len(changed) + 1)), int(rng.integers(4))
        if kind == 0:
            changed[place : place + 1] = noise(rng, 3)
        elif kind == 1:
            changed[place:place] = noise(rng, 8)
        elif kind == 2:
            changed[place : place + 4] = struct.pack(">I", pick(rng, (0, 1, 0x7FFFFFFF, 0xFFFFFFFF)))
        else:
            changed[place : place + int(rng.integers(1, 40))] = b""
    return bytes(changed)


def tiff(rng: Rng) -> bytes:
    """Return EXIF data whose entries have any type, count and value."""
    tags = (0x0112, 0x8769, 0x8825, 0x010E, 0x011A, 0x0132, int(rng.integers(1 << 16)))
    entries = b"".join(
        struct.pack("<HHI", pick(rng, tags), int(rng.integers(0, 16)), pick(rng, (0, 1, 2, 9, 1 << 31)))
        + (bytes([int(rng.integers(0, 10)), 0, 0, 0]) if rng.random() < 0.5 else rng.bytes(4))
        for _ in range(int(rng.integers(0, 6)))
    )
    count = struct.pack("<H", pick(rng, (*[len(entries) // 12] * 8, 0, 0xFFFF)))
    return b"Exif\0\0" + pick(rng, (b"II*\0", b"II*\0", b"MM\0*", b"XX")) + b"\x08\0\0\0" + count + entries + bytes(4)


def odd_png(rng: Rng) -> bytes:
    """Return a PNG file with chunks that no reader needs, or that none can use."""
    data, chunks = encoded(rng, ("PNG",)), b""
    for _ in range(int(rng.integers(1, 4))):
        bomb = b"a\0\0" + zlib.compress(bytes(pick(rng, (10, 10, 3_000_000))))
        kind, body = pick(rng, CHUNKS), pick(rng, (noise(rng), bomb, tiff(rng)[6:]))
        checksum = zlib.crc32(kind + body) if rng.random() < 0.8 else 7
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
    place = 33 if rng.random() < 0.8 else len(data) - 12
    return data[:place] + chunks + data[place:]


def odd_jpeg(rng: Rng) -> bytes:
    """Return a JPEG file with segments that no reader needs, or that none can use."""
    data, segments = encoded(rng, ("JPEG",)), b""
    for _ in range(int(rng.integers(1, 4))):
        body = tiff(rng) if rng.random() < 0.4 else pick(rng, SEGMENTS) + noise(rng)
        length = len(body) + 2 if rng.random() < 0.9 else int(rng.integers(0, 1 << 16))
        segments += bytes([0xFF, pick(rng, MARKERS)]) + struct.pack(">H", length) + body
    return data[:2] + segments + data[2:]


def odd_size(rng: Rng) -> bytes:
    """Return a PNG file whose header announces another size: nothing, a little, a bomb."""
    data = bytearray(encoded(rng, ("PNG",)))
    data[16:24] = struct.pack(">II", *(pick(rng, (0, 1, 64, 9_500, 60_000, 2**31 - 1)) for _ in range(2)))
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def odd_profile(rng: Rng) -> bytes:
    """Return a file with a colour profile that is damaged, another colour space's, or far too large."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile(pick(rng, ("sRGB", "LAB", "XYZ")))).tobytes())
    profile[24:36] = bytes(12)  # when it was made
    for _ in range(int(rng.integers(0, 4))):
        profile[int(rng.integers(len(profile)))] = int(rng.integers(256))
    profile += bytes(pick(rng, (0, 0, 3_000_000)))
    buffer, image = io.BytesIO(), picture(rng).convert(pick(rng, ("RGB", "L", "CMYK")))
    image.save(buffer, "JPEG" if image.mode == "CMYK" else pick(rng, ("PNG", "JPEG")), icc_profile=bytes(profile))
    return buffer.getvalue()


def huge_header(rng: Rng) -> bytes:
    """Return a JPEG file whose picture begins after some megabytes of segments."""
    data, body = encoded(rng, ("JPEG",)), pick(rng, SEGMENTS).ljust(65_533, b"\0")
    return data[:2] + (bytes([0xFF, pick(rng, MARKERS[:6])]) + b"\xff\xff" + body) * int(rng.integers(1, 50)) + data[2:]


def two_pictures(rng: Rng) -> bytes:
    """Return a JPEG file with a second picture in it."""
    first, second, buffer = picture(rng).convert("RGB"), picture(rng).convert("RGB"), io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    return buffer.getvalue()


CONTENTS: tuple[Callable[[Rng], bytes], ...] = (
    encoded,
    odd_png,
    odd_jpeg,
    odd_size,
    odd_profile,
    huge_header,
    two_pictures,
    lambda rng: pick(rng, STARTS) + noise(rng, 200),
    lambda rng: fuzzed(rng, encoded(rng)),
    lambda rng: fuzzed(rng, odd_jpeg(rng)),
    lambda rng: fuzzed(rng, odd_png(rng)),
    lambda rng: encoded(rng)[: int(rng.integers(0, 400))],
    lambda rng: encoded(rng, ("GIF", "BMP", "TIFF")),
    lambda rng: b"",
)
