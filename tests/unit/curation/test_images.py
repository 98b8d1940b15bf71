"""Image files: orientation, transparency, depth, and everything that is not a picture."""

import io

import numpy as np
import pytest
from PIL import Image

from softalign.curation.images import HASH_BITS, UnreadableImageError, decode_rgb, inspect_image, perceptual_hash


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
    assert caught.value.reason == "corrupt_image"


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
            assert error.reason in {"corrupt_image", "unsupported_format", "too_many_pixels"}


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_images(data):
    with pytest.raises(UnreadableImageError) as caught:
        inspect_image(data)
    assert caught.value.reason == "corrupt_image"


def test_other_formats_and_bombs_are_refused(make_picture, monkeypatch):
    with pytest.raises(UnreadableImageError) as caught:
        inspect_image(encoded(make_picture(1), "GIF"))
    assert (caught.value.reason, caught.value.found) == ("unsupported_format", "GIF")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError) as caught:
        inspect_image(encoded(make_picture(1)))
    assert caught.value.reason == "too_many_pixels"


def detailed_picture(seed):
    """Return a picture with detail at every scale the hash sees, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC)


def test_near_copies_have_near_hashes_and_other_pictures_do_not():
    original = perceptual_hash(detailed_picture(3))
    smaller = detailed_picture(3).resize((192, 192), Image.Resampling.LANCZOS)
    copy = Image.open(io.BytesIO(encoded(smaller, "JPEG", quality=85))).convert("RGB")
    assert (original ^ perceptual_hash(copy)).bit_count() <= 2
    assert (original ^ perceptual_hash(detailed_picture(4))).bit_count() > 90
