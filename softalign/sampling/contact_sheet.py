"""One picture of many: a row for each prompt, a column for each image and arm, labelled.

The same pictures and labels are the same bytes on every machine: the letters are Pillow's own bitmaps. These have
Latin-1 alone, and other characters are shown as ``?``; the sheet's text chunks have the prompts whole.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from softalign.errors import ConfigError

CELL_PX = 256
"""Side of a picture on the sheet: a thumbnail that shows an object's parts."""
GAP_PX = 8
LETTER_PX, LINE_PX = 6, 14
"""Width of a letter of Pillow's bitmap font, and height of a line (its 11 px and a little air)."""
MAX_PIXELS = 89_478_485
"""Pillow's own limit, above which it and others warn of a decompression bomb."""


@dataclass(frozen=True)
class SheetLayout:
    """A sheet without its pictures.

    Attributes:
        title: what all pictures have in common.
        rows: a label for each row.
        columns: a label for each column.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def width_px(self) -> int:
        """Width of the sheet."""
        return GAP_PX + len(self.columns) * (CELL_PX + GAP_PX)

    @property
    def height_px(self) -> int:
        """Height of the sheet."""
        labels = sum(len(self.lines(label)) for label in (self.title, *self.rows))
        return GAP_PX + labels * LINE_PX + len(self.rows) * (LINE_PX + CELL_PX + GAP_PX) + GAP_PX

    def lines(self, label: str) -> list[str]:
        """Return a label as lines of letters that can be drawn."""
        plain = " ".join(label.split()).encode("latin-1", "replace").decode("latin-1")
        return textwrap.wrap(plain, (self.width_px - 2 * GAP_PX) // LETTER_PX) or [""]

    def require_drawable(self) -> None:
        """Refuse a sheet that is too large to be looked at.

        Raises:
            ConfigError: it has more than ``MAX_PIXELS``.
        """
        if self.width_px * self.height_px > MAX_PIXELS:
            raise ConfigError(
                "The sheet of all images would be too large to be opened.",
                expected=f"at most {MAX_PIXELS} pixels",
                found=f"{len(self.rows)} rows of {len(self.columns)}: {self.width_px} x {self.height_px}",
                fix="draw fewer prompts or images at a time, or leave out --grid",
            )


def contact_sheet(layout: SheetLayout, pictures: Sequence[Sequence[Image.Image]], info: PngInfo) -> bytes:
    """Return a sheet as a PNG file.

    Args:
        layout: labels.
        pictures: of each row, one for each column; square, shown as large as a cell takes them.
        info: the sheet's text chunks.
    """
    sheet = Image.new("RGB", (layout.width_px, layout.height_px), "white")
    top = _write(sheet, layout.lines(layout.title), GAP_PX, GAP_PX) + GAP_PX
    for label, row in zip(layout.rows, pictures, strict=True):
        top = _write(sheet, layout.lines(label), GAP_PX, top)
        for place, (name, picture) in enumerate(zip(layout.columns, row, strict=True)):
            left = GAP_PX + place * (CELL_PX + GAP_PX)
            below = _write(sheet, layout.lines(name)[:1], left, top)
            shown = _fitted(picture)
            sheet.paste(shown, (left + (CELL_PX - shown.width) // 2, below + (CELL_PX - shown.height) // 2))
        top += LINE_PX + CELL_PX + GAP_PX
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def _write(sheet: Image.Image, lines: Sequence[str], left: int, top: int) -> int:
    """Write lines below one another, and return where the next one begins."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default_imagefont()
    for line in lines:
        draw.text((left, top), line, fill="black", font=font)
        top += LINE_PX
    return top


def _fitted(picture: Image.Image) -> Image.Image:
    """Return a picture at the size of a cell: a small one by whole pixels, as it is, a large one averaged."""
    side = max(picture.size)
    if side > CELL_PX:
        return picture.resize([max(1, CELL_PX * edge // side) for edge in picture.size], Image.Resampling.BOX)
    factor = CELL_PX // side
    return picture.resize([factor * edge for edge in picture.size], Image.Resampling.NEAREST)
