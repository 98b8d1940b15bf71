"""Colours as the file's author saw them: pixels with a colour profile become sRGB, by LittleCMS.

A profile that is damaged, or that cannot belong to the pixels, costs no picture: its pixels are taken as they are.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms, features

from softalign.errors import ConfigError

DECODER = "colours in sRGB, version 2"
"""Part of every latent's identity and of encode's stage key: change it whenever files are decoded to other pixels.

Version 1 ignored colour profiles.
"""
MAX_UNSEEN_DIFFERENCE = 1
"""Of 255. A profile that moves no colour of a lattice by more is sRGB itself, in whoever's rounding."""
MAX_CACHED_PROFILES = 16
"""Cameras and stock agencies use few; printers' have up to some megabytes."""
_LATTICE_LEVELS = 9
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_FITTING = {("RGB", "RGB"), ("L", "RGB"), ("L", "L"), ("CMYK", "CMYK")}
"""Modes of pixels with modes of profiles."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image's pixels as sRGB; the image itself where it is that.

    Args:
        image: of mode ``RGB``, ``L`` (grey is the colour of three equal channels) or ``CMYK``.
        profile: its ICC profile; empty where it has none, which means sRGB (CMYK: plain inks, as Pillow has them).

    Raises:
        ConfigError: this Pillow was built without LittleCMS, and there is a profile.
    """
    transform = _transform_of(profile) if profile else None
    if transform is None or (image.mode, transform.input_mode) not in _FITTING:
        return _in_mode(image, "RGB")
    converted = ImageCms.applyTransform(_in_mode(image, transform.input_mode), transform)
    if converted is None:
        raise AssertionError("a transform that is not in place returns its result")
    return converted


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


@lru_cache(maxsize=MAX_CACHED_PROFILES)
def _transform_of(profile: bytes) -> Any:
    """Return the way from a profile to sRGB; None where it leads nowhere else, or the profile cannot be used."""
    if not features.check("littlecms2"):
        raise ConfigError(
            "This Pillow cannot convert colours.",
            expected="a Pillow with LittleCMS, as some of the images have colour profiles",
            found="a build without it",
            fix="install Pillow's own wheel: pip install --force-reinstall --only-binary :all: pillow",
        )
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES[str(opened.profile.xcolor_space)]
        target = ImageCms.createProfile("sRGB")
        # no cache of the last pixel: readers share the transform
        transform = ImageCms.buildTransform(opened, target, mode, "RGB", flags=ImageCms.Flags.NOCACHE)
        return None if mode != "CMYK" and _changes_nothing(transform, mode) else transform
    except MemoryError:
        raise
    except Exception:  # of any class: profiles come from anywhere, and shall not decide over pixels
        return None


def _changes_nothing(transform: Any, mode: str) -> bool:
    levels = np.linspace(0, 255, _LATTICE_LEVELS).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    greys = np.arange(256, dtype=np.uint8)[None]
    before = Image.fromarray(greys if mode == "L" else colours)
    after = np.asarray(ImageCms.applyTransform(before, transform), dtype=int)
    return bool(np.abs(after - np.asarray(before.convert("RGB"), dtype=int)).max() <= MAX_UNSEEN_DIFFERENCE)
