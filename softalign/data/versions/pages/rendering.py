"""The templates' surroundings: escaping, text that can be shown, pictures as part of the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from softalign.data.curation.images import decoded_rgb
from softalign.data.versions.pages.charts import histogram
from softalign.pages import page_environment

if TYPE_CHECKING:
    import jinja2

MAX_TEXT_CHARS = 400
"""Of a file name or caption; more is cut, as one of 100,000 characters would hide the others."""
THUMBNAIL_PX = 160
SMALL_PX = 64
"""Images up to this side are shown as they are, with hard pixels."""
_QUALITY = 75


def template(filename: str) -> jinja2.Template:
    """Return a template of this folder; what it is given is escaped."""
    environment = page_environment(Path(__file__).parent)
    environment.filters["shown"] = shown
    environment.filters["megabytes"] = lambda size_bytes: f"{size_bytes / 1e6:,.1f} MB"
    environment.globals["histogram"] = histogram
    return environment.get_template(filename)


def shown(text: str) -> str:
    """Return text with escapes for characters that cannot be seen or that turn the line around; cut if long."""
    cut = text if len(text) <= MAX_TEXT_CHARS else f"{text[:MAX_TEXT_CHARS]}… ({len(text):,} characters)"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


def thumbnail(file: bytes) -> str:
    """Return an image of a dataset as a data URI, decoded as curation and encoding do, and small; all are WebP."""
    with decoded_rgb(file) as small:
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=_QUALITY, method=4, lossless=max(small.size) <= SMALL_PX)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
