"""Image files: orientation, transparency, depth, and everything that is not a picture."""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from softalign.config import FilterConfig
from softalign.data.curation import images
from softalign.data.curation.hashing import HASH_BITS
from softalign.data.curation.images import UnreadableImageError, decoded_rgb, inspect_image
from softalign.data.curation.rejections import Flaw


def decode_rgb(data):
    with decoded_rgb(data) as image:
        return image


def facts_of(data):
    """Return what is known of the picture, whatever else the file holds."""
    return replace(inspect_image(data), stored=b"")


def encoded(image, image_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("image_format", "extension"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
def test_facts_of_accepted_formats(make_picture, image_format, extension):
    facts = inspect_image(encoded(make_picture(1), image_format))
    assert (facts.extension, facts.width_px, facts.height_px) == (extension, 48, 40)
    assert 0 <= facts.perceptual_hash < 2**HASH_BITS


def test_exif_orientation_is_applied(make_picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(make_picture(1), exif=exif)
    assert decode_rgb(data).size == (40, 48)
    assert inspect_image(data).width_px == 40
    rotated = np.asarray(make_picture(1).transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(np.asarray(decode_rgb(data)), rotated)


def test_transparency_lies_over_white():
    hidden_red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decode_rgb(encoded(hidden_red)).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0] * 256)
    assert decode_rgb(encoded(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_images_are_scaled_not_clipped():
    ramp = Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.uint16))
    values = [pixel[0] for pixel in np.asarray(decode_rgb(encoded(ramp)))[0].tolist()]
    assert values == [0, 128, 255]


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "LA"])
def test_other_modes_become_rgb(make_picture, mode):
    image_format = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_rgb(encoded(make_picture(1).convert(mode), image_format)).mode == "RGB"


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_truncated_files_are_corrupt(make_picture, image_format, share):
    data = encoded(make_picture(1, 200, 200), image_format)
    with pytest.raises(UnreadableImageError) as caught:
        inspect_image(data[: int(len(data) * share)])
    assert caught.value.flaw.reason == "corrupt_image"


def test_flipped_bytes_never_crash(make_picture):
    data = encoded(make_picture(1))
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] ^= int(rng.integers(1, 256))
        try:
            inspect_image(bytes(damaged))
        except UnreadableImageError as error:
            assert error.flaw.reason in {"corrupt_image", "unsupported_format", "too_many_pixels"}


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "an empty file"),
        (b"not an image", "no image, or a damaged header"),
        (b"\x89PNG\r\n\x1a\n", "no image, or a damaged header"),
        (b"\xff\xd8\xff", "no image, or a damaged header"),
        (b"RIFF\x00\x00\x00\x00WEBP", "no image, or a damaged header"),
    ],
)
def test_files_that_are_no_images(data, detail):
    with pytest.raises(UnreadableImageError) as caught:
        inspect_image(data)
    assert caught.value.flaw == Flaw("corrupt_image", detail)


def test_other_formats_and_bombs_are_refused(make_picture):
    with pytest.raises(UnreadableImageError) as caught:
        inspect_image(encoded(make_picture(1), "GIF"))
    assert caught.value.flaw == Flaw("unsupported_format", "GIF")
    with pytest.raises(UnreadableImageError) as caught:
        inspect_image(encoded(make_picture(1)), 48 * 40 - 1)
    assert caught.value.flaw == Flaw("too_many_pixels", "48 x 40 px")
    assert inspect_image(encoded(make_picture(1)), 48 * 40).width_px == 48


@pytest.mark.parametrize("side", [9460, 20_000, 2**31 - 1])
def test_bombs_are_refused_before_a_pixel_is_decoded(make_picture, side, monkeypatch):
    data = bytearray(encoded(make_picture(1)))
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("decoded"))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(UnreadableImageError) as caught:
        inspect_image(bytes(data), FilterConfig().max_pixels)
    assert caught.value.flaw.reason == "too_many_pixels"


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError("out of memory when reading image file"), KeyboardInterrupt()]
)
def test_no_memory_and_no_patience_are_not_the_files_fault(make_picture, monkeypatch, error):
    def failing(image):
        raise error

    monkeypatch.setattr(PngImageFile, "load", failing)
    with pytest.raises(MemoryError if not isinstance(error, KeyboardInterrupt) else KeyboardInterrupt):
        inspect_image(encoded(make_picture(1)))


def test_a_fault_of_ours_is_no_flaw_of_an_image(make_picture, monkeypatch):
    monkeypatch.setattr(images, "perceptual_hash", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        inspect_image(encoded(make_picture(1)))


def chunk(kind, data, crc=None):
    """Return a PNG chunk."""
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def with_chunks(data, *chunks):
    """Insert chunks behind a PNG file's header."""
    return data[:33] + b"".join(chunks) + data[33:]


@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 2_000_000)),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"{}" * 2_000_000)),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"tEXt", b"damaged", crc=7),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        chunk(b"eXIf", b"no TIFF header"),
        chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0" + bytes(4), crc=7),
        chunk(b"pHYs", b"\0"),
        chunk(b"gAMA", b""),
        chunk(b"cHRM", b"\0" * 5),
        chunk(b"acTL", b"\0"),
        chunk(b"fdAT", b"\0"),
    ],
)
def test_a_pngs_metadata_does_not_decide_over_its_pixels(make_picture, odd):
    data = encoded(make_picture(1))
    assert np.array_equal(np.asarray(decode_rgb(with_chunks(data, odd))), np.asarray(make_picture(1)))
    assert facts_of(with_chunks(data, odd)) == facts_of(data)


def test_a_pngs_orientation_may_come_first_or_last(make_picture):
    exif = chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0" + bytes(4))
    data = encoded(make_picture(1))
    for odd in (with_chunks(data, exif), data[:-12] + exif + data[-12:]):
        assert decode_rgb(odd).size == (40, 48)


def segment(marker, data):
    """Return a JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


@pytest.mark.parametrize(
    "odd",
    [
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
        segment(0xE1, b"Exif\0\0"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
        segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\x01\xb0\x01\0\x04"),
        segment(0xE2, b"ICC_PROFILE\0\x09\x01damaged"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x03"),
        segment(0xFE, b"\xff\xfe\xfd"),
        b"\xff\xff",
    ],
)
def test_a_jpegs_metadata_does_not_decide_over_its_pixels(make_picture, odd):
    data = encoded(make_picture(1), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(decode_rgb(data[:2] + odd + data[2:])), expected)


def test_a_jpeg_with_a_second_picture_is_its_first(make_picture):
    data = encoded(make_picture(1), "MPO", save_all=True, append_images=[make_picture(2)], quality=90)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert facts_of(data) == facts_of(encoded(make_picture(1), "JPEG", quality=90))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_as_pillow_has_it(make_picture, image_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(make_picture(1), image_format, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(expected))


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [
        (2, 4, b"six\0"),
        (7, 1, b"\6\0\0\0"),
        (11, 1, b"\0\0\xc0\x40"),
        (3, 1, b"\x86\0\0\0"),
        (99, 1, b"\6\0\0\0"),
        (5, 9, b"\xff" * 4),
    ],
)
def test_an_orientation_of_an_odd_type_is_none(make_picture, kind, count, value):
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHI", 0x0112, kind, count) + value + bytes(4)
    assert decode_rgb(encoded(make_picture(1), "JPEG", exif=exif)).size == (48, 40)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_what_says_how_colours_are_coded_stays(make_picture, mode):
    data = encoded(make_picture(1).convert(mode), "JPEG", quality=95)
    assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
