"""Folders of images: which of them holds the files that a table names, and what the files' headers say."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from statistics import median

from PIL import Image

from softalign.config.curation import FilterConfig
from softalign.data.drafting.records import ImageLook
from softalign.errors import DataError, MissingInputError
from softalign.store.store import WORK_FOLDER

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
"""Of the formats that curation accepts."""
MAX_DEPTH = 3
"""How deep folders are searched below the given one."""
MAX_FOLDERS = 500
NUM_PROBED = 50
"""File names by which a folder is recognised."""
NUM_LOOKED_AT = 200
"""Images whose headers are read."""
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True, slots=True)
class ImageFolders:
    """The folder that holds a table's images, and others that hold as many of them."""

    chosen: Path
    others: tuple[Path, ...]


def folders_below(root: Path) -> Iterator[Path]:
    """Yield a folder and those below it, the nearest first, at most MAX_FOLDERS, but no hidden ones and no stores."""
    level = [root]
    for _ in range(MAX_DEPTH):
        yield from level
        level = [
            Path(entry.path)
            for folder in level
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
            if entry.is_dir() and not entry.name.startswith(".") and os.access(entry.path, os.R_OK | os.X_OK)
            if not (Path(entry.path) / WORK_FOLDER).is_dir()
        ][:MAX_FOLDERS]
    yield from level


def find_images(names: Sequence[str], roots: Sequence[Path], table: Path) -> ImageFolders:
    """Return the folder below some roots that holds most of the named images.

    Of folders with as many, the one is chosen whose name is part of the table's (``train2017`` of
    ``captions_train2017.json``), then the first by name.

    Raises:
        DataError: no name is relative to a folder.
        MissingInputError: no folder holds any of them.
    """
    probed = spread(_relative(names, table), NUM_PROBED)
    counts = {
        folder: sum(os.path.isfile(folder / name) for name in probed)
        for root in roots
        for folder in islice(folders_below(root), MAX_FOLDERS)
    }
    most = max(counts.values(), default=0)
    if most == 0:
        raise MissingInputError(
            "The images that this table lists were not found.",
            expected=f"a folder that holds files such as {probed[0]}",
            found=f"none of {len(probed)} names tried in {len(counts)} folder{'s' * (len(counts) > 1)}",
            where=f"{table}; searched: {', '.join(str(root) for root in roots)}",
            fix="name the folder that the table's file names are relative to with --images",
        )
    best = [folder for folder, count in counts.items() if count == most]
    best.sort(key=lambda folder: (folder.name not in table.stem, len(folder.parts), str(folder)))
    return ImageFolders(best[0], tuple(best[1:]))


def _relative(names: Sequence[str], table: Path) -> list[str]:
    usable = [name for name in names if name and "://" not in name and not PurePosixPath(name).is_absolute()]
    if not usable:
        raise DataError(
            "The table's image paths are not relative to a folder.",
            expected="paths such as 0001.jpg or train/0001.jpg",
            found=(names[0] if names else "no rows")[:200],
            where=str(table),
            fix="name the folder that absolute paths lie below with --images, or write paths relative to it",
        )
    return usable


def list_images(folder: Path) -> set[str]:
    """Return the image files below a folder by their relative names."""
    found = set()
    for base, _, names in os.walk(folder):
        below = os.path.relpath(base, folder)
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):
                found.add(name if below == "." else f"{below}/{name}")
    return found


def look_at_images(folder: Path, names: Sequence[str]) -> ImageLook:
    """Return what the headers of at most NUM_LOOKED_AT of the named images say, by the default filters."""
    return look_at([folder / name for name in spread(names, NUM_LOOKED_AT)])


def look_at(images: Sequence[Path | bytes]) -> ImageLook:
    """Return what the headers of some images say, files or their content, by the default filters."""
    filters, sizes = FilterConfig(), []
    for content in images:
        try:
            with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
                sizes.append(image.size)
        except _UNREADABLE:
            continue
    sides = [min(size) for size in sizes]
    return ImageLook(
        num_looked_at=len(images),
        num_unreadable=len(images) - len(sizes),
        num_below_min_side=sum(side < filters.min_side_px for side in sides),
        num_too_elongated=sum(max(size) > filters.max_aspect_ratio * min(size) for size in sizes),
        smallest_side_px=min(sides, default=0),
        median_side_px=round(median(sides)) if sides else 0,
    )


def spread(names: Sequence[str], number: int) -> list[str]:
    """Return at most ``number`` of the names, evenly spread."""
    step = max(1, -(-len(names) // number))
    return list(names[::step])
