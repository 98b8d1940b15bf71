"""The images inside the page: pixel art as it is, photographs as thumbnails of a bounded total size."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from PIL import ExifTags, Image, ImageOps

SMALL_IMAGE_PX = 64
"""Images up to this side are embedded byte for byte (about 1 kB each) and shown with hard pixels."""
PAGE_BYTES = 8_000_000
"""The whole page: what opens in a second, and what registries and mail still take."""
_AIM = 0.96
"""Of the budget: what estimates from probes aim at, since they are off by a few per cent."""
_NUM_PROBES = 32
_LARGEST_PX = 256
_ON_ITS_SIDE = range(5, 9)
"""EXIF orientations that exchange width and height."""
_METHOD = 6
"""WebP's slowest: thumbnails are 7 % smaller than with its default (measured: COCO's photographs)."""

Size = tuple[int, int]
"""Width and height in pixels, after the EXIF orientation: as detectors see the image."""
ReadFile = Callable[[], bytes]
"""Reads an image file; thousands of them are never held at once."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """An image file; ``is_told``: its verdict differs between columns, so people look at it first."""

    read: ReadFile
    is_told: bool = True


@dataclass(frozen=True, slots=True)
class Rung:
    """Sides of thumbnails, of those that are told and of the others, and the quality of both."""

    told_px: int
    other_px: int
    quality: int

    def side_px(self, file: PictureFile) -> int:
        """Return the side of a file's thumbnail."""
        return self.told_px if file.is_told else self.other_px


LADDER = (
    Rung(256, 256, 70),
    Rung(192, 192, 70),
    Rung(160, 160, 65),
    Rung(160, 128, 60),
    Rung(144, 112, 55),
    Rung(128, 96, 50),
    Rung(128, 80, 45),
    Rung(128, 64, 45),
    Rung(112, 64, 40),
    Rung(112, 64, 32),
    Rung(112, 64, 25),
    Rung(96, 56, 30),
    Rung(96, 56, 22),
    Rung(80, 48, 25),
    Rung(64, 40, 25),
    Rung(48, 32, 20),
)
"""From what is shown where there is room to what is shown of tens of thousands of images."""


@dataclass(frozen=True)
class Pictures:
    """Pictures as base64 of files of one type, and the images' sizes in pixels; in the order of the files.

    The picture of an image whose pixels are damaged is empty.
    """

    media_type: str
    base64: tuple[str, ...]
    sizes: tuple[Size, ...]


def image_size(file: bytes) -> Size:
    """Return an image's width and height in pixels, after its EXIF orientation."""
    with Image.open(io.BytesIO(file)) as image:
        width, height = image.size
        is_on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) in _ON_ITS_SIDE
    return (height, width) if is_on_its_side else (width, height)


def pictures_of(files: Sequence[PictureFile], budget_bytes: int) -> Pictures:
    """Return the images as base64; large ones as WebP thumbnails, as small as the budget demands.

    Args:
        files: in the page's order.
        budget_bytes: of the base64 of all. The last rung of the ladder is taken even where it needs more.
    """
    if files and max(image_size(files[0].read())) <= SMALL_IMAGE_PX:
        made = [_Made(_base64(data := file.read()), image_size(data)) for file in files]
        if _num_bytes(made) <= budget_bytes:
            return _pictures("image/png", made)
    return _pictures("image/webp", _thumbnails(files, budget_bytes))


@dataclass(frozen=True, slots=True)
class _Made:
    text: str
    size: Size


def _pictures(media_type: str, made: Sequence[_Made]) -> Pictures:
    return Pictures(media_type, tuple(one.text for one in made), tuple(one.size for one in made))


def _num_bytes(made: Sequence[_Made]) -> int:
    return sum(len(one.text) for one in made)


def _thumbnails(files: Sequence[PictureFile], budget_bytes: int) -> list[_Made]:
    made: list[_Made] = []
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # decoding and encoding hold no lock
        for rung in _fitting(files, budget_bytes):
            made = list(threads.map(partial(_thumbnail, rung), files))
            if _num_bytes(made) <= budget_bytes:
                break
    return made


def _fitting(files: Sequence[PictureFile], budget_bytes: int) -> Iterator[Rung]:
    """Yield the rungs whose total, estimated from evenly spread probes, fits the budget, and at last the last one."""
    groups = [[file for file in files if file.is_told is is_told] for is_told in (True, False)]
    probes = [list(_probes(group)) for group in groups]
    for rung in LADDER[:-1]:
        total = 0.0
        for group, chosen in zip(groups, probes, strict=True):
            lengths = [len(_base64(_encoded(small.image, rung.side_px(file), rung.quality))) for file, small in chosen]
            total += len(group) * sum(lengths) / max(1, len(lengths))
        if total <= _AIM * budget_bytes:
            yield rung
    yield LADDER[-1]


def _probes(group: Sequence[PictureFile]) -> Iterator[tuple[PictureFile, _Small]]:
    for file in group[:: max(1, len(group) // _NUM_PROBES)]:
        small = _small(file.read())
        if small is not None:
            yield file, small


def _thumbnail(rung: Rung, file: PictureFile) -> _Made:
    small = _small(file.read())
    if small is None:
        return _Made("", (1, 1))
    return _Made(_base64(_encoded(small.image, rung.side_px(file), rung.quality)), small.size)


@dataclass(frozen=True, slots=True)
class _Small:
    """An image no larger than the largest thumbnail, upright and in RGB; and the size that it had."""

    image: Image.Image
    size: Size


def _small(file: bytes) -> _Small | None:
    """Return an image; None where its pixels are damaged, which nobody may have looked at before."""
    try:
        with Image.open(io.BytesIO(file)) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    size = image.size
    image.thumbnail((_LARGEST_PX, _LARGEST_PX), Image.Resampling.LANCZOS)
    return _Small(image, size)


def _encoded(image: Image.Image, side_px: int, quality: int) -> bytes:
    small = image.copy()
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=quality, method=_METHOD)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
