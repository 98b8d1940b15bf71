"""The card's pictures: images that the evaluation drew anyway, base and adapter side by side.

Of each tag the suite's first prompt and its first images: the same for every adapter, whatever came out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from softalign.artifacts.card import PICTURES_FILENAME, CardPictures, PictureRow
from softalign.evaluation.report.gallery import ArmData
from softalign.evaluation.report.pictures import SMALL_IMAGE_PX, image_size
from softalign.geneval.scoring import ImageResult

IMAGES_PER_PROMPT = 4
CELL_PX, GAP_PX, MARGIN_PX = 160, 24, 4
_QUALITY = 85


def write_pictures(folder: Path, base: ArmData, adapter: ArmData) -> CardPictures:
    """Write the sheet and its description to a folder, and return the description.

    Args:
        folder: is made.
        base: the base model's arm.
        adapter: the adapter's: the same prompts and noise.
    """
    folder.mkdir(parents=True)
    chosen = list(_chosen(base.results))
    others = {result.filename: result for result in adapter.results}
    files = [[arm.images.read(one.filename) for arm in (base, adapter) for one in row] for row in chosen]
    is_small = max(image_size(files[0][0])) <= SMALL_IMAGE_PX
    cells = [[_cell(file, is_small=is_small) for file in row] for row in files]
    name = f"base-and-adapter.{'png' if is_small else 'webp'}"
    _sheet(cells).save(folder / name, quality=_QUALITY)  # of WebP; PNG has none
    rows = tuple(
        PictureRow(
            tag=row[0].tag,
            prompt=row[0].prompt,
            num_images=len(row),
            num_correct_base=sum(one.correct for one in row),
            num_correct_adapter=sum(others[one.filename].correct for one in row),
        )
        for row in chosen
    )
    pictures = CardPictures(image=name, rows=rows)
    (folder / PICTURES_FILENAME).write_text(pictures.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return pictures


def _chosen(results: Sequence[ImageResult]) -> Iterator[list[ImageResult]]:
    """Yield the first images of each tag's first prompt, in the suite's order."""
    first: dict[str, list[ImageResult]] = {}
    for result in results:
        row = first.setdefault(result.tag, [])
        is_of_prompt = not row or row[0].folder == result.folder
        if is_of_prompt and len(row) < IMAGES_PER_PROMPT:
            row.append(result)
    yield from first.values()


def _cell(file: bytes, *, is_small: bool) -> Image.Image:
    """Return an image at the size of a cell; pixel art keeps its pixels."""
    with Image.open(io.BytesIO(file)) as opened:
        image = opened.convert("RGB")
    if is_small:
        times = max(1, CELL_PX // max(image.size))
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    else:
        image.thumbnail((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
    return image


def _sheet(cells: list[list[Image.Image]]) -> Image.Image:
    """Return all cells on white: the first half of each row, a gap, the second half."""
    width, height = cells[0][0].size
    num_columns = max(map(len, cells))
    size = (num_columns * (width + MARGIN_PX) + GAP_PX, len(cells) * (height + MARGIN_PX))
    sheet = Image.new("RGB", size, "white")
    for row, images in enumerate(cells):
        for column, image in enumerate(images):
            gap = GAP_PX if column >= len(images) // 2 else 0
            sheet.paste(image, (column * (width + MARGIN_PX) + gap, row * (height + MARGIN_PX)))
    return sheet
