"""Colour profiles: pixels become sRGB as an independent calculation has it; a bad profile costs no picture."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from softalign.config import load_recipe
from softalign.data.curation import colour
from softalign.data.curation.images import decoded_rgb, inspect_image
from softalign.data.curation.png_colour import matrix_profile
from softalign.data.encoding.preprocessing import PREPROCESSING
from softalign.errors import ConfigError
from softalign.stages import requests
from softalign.store.store import Store

D65 = (0.3127, 0.3290)
SRGB = np.array([D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)])
ADOBE = np.array([D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)])
P3 = np.array([D65, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)])
GAMMA = 563 / 256
ADOBE_ICC = matrix_profile(GAMMA, ADOBE)


def colours(seed=0, mode="RGB"):
    """Return a picture of 24 x 16 random flat patches, so that JPEG keeps them."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (16, 24, len(mode)), dtype=np.uint8).squeeze()
    return Image.fromarray(small, mode).resize((24 * 16, 16 * 16), Image.Resampling.NEAREST)


def decode_rgb(data):
    with decoded_rgb(data) as image:
        return image


def encoded(image, image_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def to_xyz(xy):
    """Return the matrix from linear RGB to XYZ."""
    columns = np.stack([(x / y, 1.0, (1 - x - y) / y) for x, y in xy[1:]], 1)
    (x, y) = xy[0]
    return columns * np.linalg.solve(columns, (x / y, 1.0, (1 - x - y) / y))


def expected(pixels, xy, gamma=GAMMA):
    """Return sRGB pixels by matrices alone, in the white point that both spaces share."""
    linear = (np.asarray(pixels, dtype=float) / 255) ** gamma @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(xy)).T
    return stored(linear)


def stored(linear):
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def difference(data, right):
    return float(np.abs(np.asarray(decode_rgb(data), dtype=float) - right).max())


@pytest.mark.parametrize("xy", [ADOBE, P3])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_pixels_with_a_profile_become_srgb(xy, image_format):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}}[image_format]
    data = encoded(colours(), image_format, icc_profile=matrix_profile(GAMMA, xy), **options)
    right = expected(Image.open(io.BytesIO(data)), xy)
    assert np.abs(right - np.asarray(Image.open(io.BytesIO(data)))).max() > 20
    assert difference(data, right) <= 2


def test_a_profile_in_several_segments_is_joined():
    many = ADOBE_ICC + bytes(100_000)
    profile = struct.pack(">I", len(many)) + many[4:]
    data = encoded(colours(), "JPEG", icc_profile=profile, quality=100)
    assert data.count(b"ICC_PROFILE\0") == 2
    assert difference(data, expected(Image.open(io.BytesIO(data)), ADOBE)) <= 2
    start = data.index(b"ICC_PROFILE\0")
    lost = data[: start + 12] + b"\x03" + data[start + 13 :]
    assert np.array_equal(np.asarray(decode_rgb(lost)), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["P", "L"])
def test_palettes_and_greys_have_the_profiles_colours(mode):
    image = colours().convert(mode)
    right = expected(image.convert("RGB"), ADOBE)
    assert difference(encoded(image, icc_profile=ADOBE_ICC), right) <= 2


def test_transparency_stays_and_the_white_below_is_white():
    image = colours()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    alpha = np.asarray(image.getchannel("A"), dtype=float)[..., None] / 255
    right = expected(image.convert("RGB"), ADOBE) * alpha + 255 * (1 - alpha)
    assert difference(encoded(image, icc_profile=ADOBE_ICC), right) <= 2


def grey_profile(exponent):
    """Return the profile of grey pixels with a power curve."""
    data = bytearray(matrix_profile(exponent, SRGB))
    data[16:20] = b"GRAY"
    return bytes(data).replace(b"rTRC", b"kTRC", 1)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_greys_of_a_grey_profile(mode):
    image = colours(mode="L").convert(mode)
    linear = (np.asarray(image.convert("RGB"), dtype=float) / 255) ** 1.5
    assert difference(encoded(image, icc_profile=grey_profile(1.5)), stored(linear)) <= 2


def inks_profile():
    """Return a CMYK profile with inks unlike their names: cyan is yellowish, magenta bluish, both of L* 60."""
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    lightness = [255 * (1 - k) * (1 - 0.4 * max(c, m)) for c, m, y, k in corners]
    yellowness = [128 + 16 * (c - m) * (1 - k) for c, m, y, k in corners]
    grid = b"".join(bytes([round(light), 128, warm]) for light, warm in zip(lightness, yellowness, strict=True))
    identity = struct.pack(">9i", *(65536 * int(place % 4 == 0) for place in range(9)))
    ramp = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + grid + ramp * 3
    lut += bytes(-len(lut) % 4)
    start = 128 + 4 + 12
    head = struct.pack(">I4sI12s", start + len(lut), b"none", 0x02100000, b"prtrCMYKLab ").ljust(36, b"\0") + b"acsp"
    head = (head + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0")
    return head + struct.pack(">I4sII", 1, b"A2B0", start, len(lut)) + lut


@pytest.mark.parametrize(
    ("inks", "lab"),
    [
        ((0, 0, 0, 0), (100, 0, 0)),
        ((0, 0, 255, 255), (0, 0, 0)),
        ((255, 0, 0, 0), (60, 0, 16)),
        ((0, 255, 0, 0), (60, 0, -16)),
    ],
)
def test_inks_are_printed_through_their_profile(inks, lab):
    image = Image.new("CMYK", (32, 32), inks)
    found = np.asarray(decode_rgb(encoded(image, "JPEG", quality=100, icc_profile=inks_profile())))[16, 16]
    f = (lab[0] + 16) / 116
    xyz = [t**3 if t > 6 / 29 else 3 * (6 / 29) ** 2 * (t - 4 / 29) for t in (f + lab[1] / 500, f, f - lab[2] / 200)]
    # from D50 to linear sRGB, as the sRGB profile's colorants have it
    columns = np.array([(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]).T
    right = stored(np.linalg.solve(columns, np.array(xyz) * (0.9642, 1.0, 0.8249)))
    assert np.abs(found - right).max() <= 2


def test_a_srgb_profile_leaves_every_pixel():
    data = encoded(colours(), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(colours()))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "profile",
    [b"no profile", ADOBE_ICC[:200], ADOBE_ICC[:60] + bytes(len(ADOBE_ICC) - 60), inks_profile(), grey_profile(1.5)],
)
def test_a_profile_that_cannot_be_the_pixels_costs_nothing(image_format, profile):
    data = encoded(colours(), image_format, icc_profile=profile)
    assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_flipped_bytes_of_a_profile_cost_no_picture():
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(ADOBE_ICC)
        for place in rng.integers(0, len(damaged), 4):
            damaged[place] ^= int(rng.integers(1, 256))
        assert inspect_image(encoded(colours().resize((48, 40)), icc_profile=bytes(damaged))).width_px == 48


def with_chunks(data, **chunks):
    """Insert chunks behind a PNG file's header."""
    made = [(kind.encode(), content) for kind, content in chunks.items()]
    whole = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in made]
    return data[:33] + b"".join(whole) + data[33:]


def gamma_of(value):
    return struct.pack(">I", value)


def primaries(xy):
    return struct.pack(">8I", *(np.asarray(xy) * 100_000).round().astype(int).ravel())


@pytest.mark.parametrize(("xy", "gamma"), [(ADOBE, 2.2), (SRGB, 1.0), (P3, 1.8)])
def test_a_pngs_gamma_and_primaries_are_a_profile(xy, gamma):
    data = with_chunks(encoded(colours()), gAMA=gamma_of(round(100_000 / gamma)), cHRM=primaries(xy))
    assert difference(data, expected(colours(), xy, gamma)) <= 2


@pytest.mark.parametrize(
    "chunks",
    [
        {"gAMA": gamma_of(45455)},
        {"cHRM": primaries(P3)},
        {"gAMA": gamma_of(45455), "cHRM": primaries(SRGB)},
        {"gAMA": gamma_of(55556), "cHRM": primaries(P3), "sRGB": b"\0"},
        {"gAMA": gamma_of(0), "cHRM": primaries(P3)},
        {"gAMA": gamma_of(55556), "cHRM": bytes(32)},
        {"gAMA": gamma_of(55556), "cHRM": primaries([D65] * 4)},
        {"gAMA": gamma_of(55556), "cHRM": b"\xff" * 32},
    ],
)
def test_chunks_that_say_srgb_or_nothing_leave_every_pixel(chunks):
    assert np.array_equal(np.asarray(decode_rgb(with_chunks(encoded(colours()), **chunks))), np.asarray(colours()))


def test_a_pillow_without_littlecms_is_told_and_not_worked_around(monkeypatch):
    monkeypatch.setattr(features, "check", lambda _: False)
    colour._transform_of.cache_clear()
    with pytest.raises(ConfigError, match="cannot convert colours"):
        decode_rgb(encoded(colours(), icc_profile=ADOBE_ICC))
    assert np.array_equal(np.asarray(decode_rgb(encoded(colours()))), np.asarray(colours()))


@pytest.mark.parametrize("ask", [requests.curate_request, requests.encode_request])
def test_another_decoder_is_another_request_and_other_latents(ask, tmp_path, monkeypatch):
    given = requests.StageInputs(load_recipe("shapes"), Store(str(tmp_path)))
    before = ask(given)
    assert before.config["decoder"] == colour.DECODER and colour.DECODER in PREPROCESSING
    monkeypatch.setattr(requests, "DECODER", "another")
    assert ask(given).key != before.key
