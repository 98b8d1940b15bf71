"""The colour profile that a PNG file states: in an iCCP chunk, or by gamma and primaries (gAMA and cHRM).

By the PNG specification's order: iCCP, sRGB, then gAMA with cHRM; as in browsers either of these alone says nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np

MAX_PROFILE_BYTES = 1 << 24
"""Of an unpacked profile: the largest printers' profiles have half of it."""
KINDS = (b"iCCP", b"sRGB", b"gAMA", b"cHRM")

_SRGB_GAMMA, _SRGB_PRIMARIES = 45455, (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
"""What files state beside an sRGB chunk for readers that do not know it; alone it means the same."""
_TOLERANCE = 500
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def png_profile(chunks: Mapping[bytes, bytes]) -> bytes:
    """Return a PNG file's ICC profile; empty where its pixels are sRGB, or the chunks do not say.

    Args:
        chunks: data of the chunks of ``KINDS``, by kind.
    """
    if b"iCCP" in chunks:
        return _unpacked(chunks[b"iCCP"])
    if b"sRGB" in chunks or len(chunks.get(b"gAMA", b"")) != 4 or len(chunks.get(b"cHRM", b"")) != 32:
        return b""
    (gamma,), primaries = struct.unpack(">I", chunks[b"gAMA"]), struct.unpack(">8I", chunks[b"cHRM"])
    stated, srgb = np.array([gamma, *primaries]), np.array([_SRGB_GAMMA, *_SRGB_PRIMARIES])
    if not 10_000 <= gamma <= 200_000 or np.abs(stated - srgb).max() <= _TOLERANCE:
        return b""
    return matrix_profile(100_000 / gamma, np.array(primaries).reshape(4, 2) / 100_000)


def matrix_profile(exponent: float, xy: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
    """Return an ICC profile (version 2) of three primaries and one power.

    Args:
        exponent: linear light is the stored value to this power.
        xy: CIE chromaticities of white, red, green and blue, of shape (4, 2); impossible ones give an empty profile.
    """
    with np.errstate(all="ignore"):
        white, *primaries = (np.array([x / y, 1.0, (1.0 - x - y) / y]) for x, y in xy)
        try:
            columns = np.stack(primaries, 1)
            cones = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
            adapted = np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD @ columns * np.linalg.solve(columns, white)
        except np.linalg.LinAlgError:
            return b""
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 100.0:
        return b""
    curve = b"curv" + struct.pack(">IIHH", 0, 1, round(exponent * 256), 0)
    description = b"desc" + struct.pack(">II", 0, 4) + b"PNG\0" + bytes(80)
    tags = [
        (b"desc", description),
        (b"cprt", b"text\0\0\0\0CC0\0"),
        (b"wtpt", _xyz(_D50)),
        *((name, _xyz(column)) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), adapted.T, strict=True)),
        *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")),
    ]
    return _assembled(tags)


def _assembled(tags: list[tuple[bytes, bytes]]) -> bytes:
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags:
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size, date = start + len(body), struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    head = struct.pack(">I4sI12s", size, b"none", 0x02100000, b"mntrRGB XYZ ") + date + b"acsp" + bytes(28)
    return (head + _xyz(_D50)[8:]).ljust(128, b"\0") + table + body


def _xyz(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _unpacked(chunk: bytes) -> bytes:
    _name, _, rest = chunk.partition(b"\0")
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(rest[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return b""
    return profile if unpacking.eof else b""
