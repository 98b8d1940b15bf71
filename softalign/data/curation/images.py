"""Reading image files: which are accepted, how they become RGB, and what identifies their content."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from softalign.data.curation.colour import to_srgb
from softalign.data.curation.containers import Picture, picture_of
from softalign.data.curation.decoding_memory import BYTES_PER_PIXEL, BYTES_PER_TRANSPARENT_PIXEL, DECODING
from softalign.data.curation.hashing import perceptual_hash
from softalign.data.curation.rejections import ItemError, Reason
from softalign.data.curation.transcoding import Transcoding
from softalign.errors import ConfigError

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
MAX_DECODED_PIXELS = 178_956_970
"""Pillow decodes no larger image; checked before a pixel is decoded. Recipes have a limit of their own below it."""
_FORMATS = ("JPEG", "PNG", "WEBP")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(ItemError):
    """An image file that cannot be decoded."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail, expected="a whole JPEG, PNG or WebP file")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What curation needs to know of an image; sizes and the hash are those of the image as it is stored, upright.

    Attributes:
        stored: the file as the dataset has it.
        extension: of that.
        is_animated: the file has further pictures, which are not shown.
    """

    stored: bytes
    extension: str
    width_px: int
    height_px: int
    perceptual_hash: int
    is_animated: bool


@dataclass(frozen=True, slots=True)
class _Decoded:
    """An image as ``decoded_rgb`` has it, and what its file is."""

    image: Image.Image
    format: str
    is_animated: bool


@contextmanager
def decoded_rgb(data: bytes, max_pixels: int = MAX_DECODED_PIXELS) -> Iterator[Image.Image]:
    """Yield an image file's content as sRGB: upright by its EXIF orientation, transparency over white.

    Colours are converted by the file's profile (ICC, or a PNG file's gamma and primaries); without one they are sRGB.
    The memory it takes is this process's share for decoding until it is left: other threads wait for it.

    Raises:
        UnreadableImageError: not one of the accepted formats, damaged, or of more than ``max_pixels``.
    """
    with _decoded(data, max_pixels) as decoded:
        yield decoded.image


def inspect_image(
    data: bytes,
    max_pixels: int = MAX_DECODED_PIXELS,
    transcoding: Transcoding | None = None,
    *,
    is_hashed: bool = True,
) -> ImageFacts:
    """Decode an image file once and return its facts.

    Args:
        data: the file.
        max_pixels: what it may have.
        transcoding: what it is stored as; None: as it is.
        is_hashed: whether its perceptual hash is asked for; else it is 0.

    Raises:
        UnreadableImageError: as ``decoded_rgb``, or it is too large to be stored.
    """
    with _decoded(data, max_pixels, transcoding.size_px if transcoding is not None else None) as decoded:
        image, stored, extension = decoded.image, data, EXTENSIONS[decoded.format]
        if transcoding is not None:
            image = transcoding.fitted(image)
            if flaw := transcoding.flaw_of(image.width, image.height):
                raise UnreadableImageError("too_many_pixels", flaw)
            stored, extension = transcoding.encoded(image), transcoding.extension
        found = perceptual_hash(image) if is_hashed else 0
        return ImageFacts(stored, extension, image.width, image.height, found, is_animated=decoded.is_animated)


def extension_of(data: bytes) -> str:
    """Return the extension of an accepted image file's format.

    Raises:
        UnreadableImageError: it is none.
    """
    pixels = picture_of(data).pixels
    with _flaws_of(pixels), Image.open(io.BytesIO(pixels), formats=_FORMATS) as opened:
        return EXTENSIONS[str(opened.format)]


@contextmanager
def _decoded(data: bytes, max_pixels: int, size_px: int | None = None) -> Iterator[_Decoded]:
    """Yield an image; one that is to be reduced to a shorter side perhaps smaller by then, but not below it."""
    picture = picture_of(data)
    with ExitStack() as held:
        with _flaws_of(picture.pixels):
            opened = held.enter_context(Image.open(io.BytesIO(picture.pixels), formats=_FORMATS))
            num_bytes = _bytes_to_decode(opened, max_pixels)
        held.enter_context(DECODING.taking(num_bytes))
        with _flaws_of(picture.pixels):
            decoded = _decode(opened, picture, size_px)
        yield decoded


def _bytes_to_decode(opened: Image.Image, max_pixels: int) -> int:
    """Return the memory that decoding takes, by the file's header."""
    if opened.width * opened.height > max_pixels:
        raise UnreadableImageError("too_many_pixels", f"{opened.width} x {opened.height} px")
    per_pixel = BYTES_PER_TRANSPARENT_PIXEL if opened.has_transparency_data else BYTES_PER_PIXEL
    return opened.width * opened.height * per_pixel


def _decode(opened: Image.Image, picture: Picture, size_px: int | None) -> _Decoded:
    if size_px is not None:
        opened.draft(None, (size_px, size_px))  # a JPEG file can be decoded at a half, a quarter or an eighth
    opened.load()
    upright = _UPRIGHT.get(_orientation(picture.exif or opened.info.get("exif", b"")))
    turned = opened if upright is None else opened.transpose(upright)
    profile = picture.profile or opened.info.get("icc_profile") or b""
    image = to_rgb(turned, profile)
    image.info = {}  # of which encoders would write some
    is_animated = picture.is_animated or getattr(opened, "is_animated", False)
    return _Decoded(image, str(opened.format), is_animated=is_animated)


@contextmanager
def _flaws_of(data: bytes) -> Iterator[None]:
    """Make what decoders raise the file's flaw."""
    try:
        yield
    except (UnreadableImageError, ConfigError):
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError("too_many_pixels", f"more than {MAX_DECODED_PIXELS} px") from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Exception as error:
        # Any class: decoders meet damaged bytes with whatever their code runs into, and only their work lies within.
        # But memory is the machine's failure, not the file's.
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            raise MemoryError(f"out of memory while a file of {len(data)} bytes was decoded") from error
        is_cut = isinstance(error, OSError) and "truncated" in str(error).lower()
        damage = "ends too early" if is_cut else f"damaged data ({type(error).__name__})"
        raise UnreadableImageError("corrupt_image", damage) from error


def _unidentified(data: bytes) -> UnreadableImageError:
    if not data:
        return UnreadableImageError("corrupt_image", "an empty file")
    try:
        with Image.open(io.BytesIO(data)) as opened:
            found = str(opened.format)
    except Exception:  # as above; it is no image that anyone knows
        return UnreadableImageError("corrupt_image", "no image, or a damaged header")
    if found in EXTENSIONS:
        return UnreadableImageError("corrupt_image", "a damaged header")
    return UnreadableImageError("unsupported_format", found)


def _orientation(exif: bytes) -> int:
    """Return the orientation that EXIF data states, or 1 (upright) where it cannot be read, as viewers do."""
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif)
        found = tags.get(_ORIENTATION_TAG)
    except MemoryError:
        raise
    except Exception:  # of any class, see ``_decode``; metadata does not decide over pixels
        return 1
    return found if isinstance(found, int) else 1


def to_rgb(image: Image.Image, profile: bytes = b"") -> Image.Image:
    """Return an image as sRGB, by its colour profile: transparency over white, 16 bits a channel scaled to 8."""
    if image.mode.startswith("I"):  # 16 bits a channel: Pillow would clip to white instead of scaling
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    is_grey = image.mode in {"1", "L", "LA"}
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if profile:
            colours = to_srgb(rgba.getchannel("R") if is_grey else rgba.convert("RGB"), profile)
            colours.putalpha(rgba.getchannel("A"))
            rgba = colours
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode not in {"RGB", "L", "CMYK"}:  # which would be copied
        image = image.convert("L" if is_grey else "RGB")
    return to_srgb(image, profile)
