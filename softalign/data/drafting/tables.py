"""Tables: which columns hold images and captions, guessed by their first rows and said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from softalign.data.curation.names import NameRules, is_url
from softalign.data.curation.opening import plain_name
from softalign.data.curation.parts import SourceFile, files_of
from softalign.data.curation.rows import Columns as Wanted
from softalign.data.curation.rows import Row, StoredImage
from softalign.data.curation.table import FORMATS, Opener, format_of
from softalign.data.drafting.coco import counted, counted_apart
from softalign.data.drafting.images import IMAGE_SUFFIXES, NUM_LOOKED_AT, find_images, look_at
from softalign.data.drafting.records import Alternative, Found, SourceDraft
from softalign.errors import DataError

IMAGE_NAMES = ("file_name", "filename", "image_path", "path", "image", "file", "img", "image_file", "url")
CAPTION_NAMES = ("caption", "text", "captions", "prompt", "description", "title", "label")
"""Names such columns usually have, the likeliest first."""
NUM_SAMPLED = 200
"""Rows that columns are judged by."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns that may hold images (by path, by URL, or themselves) and captions, the likeliest first.

    Attributes:
        held: those of ``images`` that hold them themselves.
        urls: those that hold URLs.
    """

    images: tuple[str, ...]
    captions: tuple[str, ...]
    held: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()


def find_table(path: Path, roots: list[Path], images: Path | None) -> Found:
    """Return what a table lists, with its other readings.

    Raises:
        DataError: it is damaged, or has no such columns.
        MissingInputError: the images are nowhere.
    """
    columns = columns_of(path, table_opener(path))
    image_column, caption_column = columns.images[0], columns.captions[0]
    is_parquet = plain_name(path.name).endswith((".parquet", ".pq"))
    draft = SourceDraft(
        type="parquet" if is_parquet else "table",
        table=str(path),
        image_column=image_column,
        caption_column=caption_column,
    )
    if image_column in columns.held:
        return find_held(draft.model_copy(update={"type": "table"}), path, table_opener(path))
    captions = _grouped(path, Wanted(image_column, (caption_column,)), images)
    if image_column in columns.urls:
        at_urls = draft.model_copy(update={"type": "table", "allow_urls": True})
        note = f"{path}: images behind URLs were not looked at"
        return Found(sources=(counted_apart(at_urls, list(captions.values()), look_at([])),), notes=(note,))
    folders = find_images(list(captions), [images] if images else roots, path)
    chosen = draft.model_copy(update={"images": str(folders.chosen)})
    others = [
        *(({"images": str(folder)}, "the same file names are in this folder too") for folder in folders.others),
        *(({"image_column": name}, "this column holds images too") for name in columns.images[1:]),
        *(({"caption_column": name}, "this column holds text too") for name in columns.captions[1:]),
    ]
    alternatives = tuple(Alternative(source=chosen.model_copy(update=change), why=why) for change, why in others)
    return Found(sources=(counted(chosen, captions),), alternatives=alternatives)


def find_held(draft: SourceDraft, path: Path, opener: Opener) -> Found:
    """Return what a table lists that holds its images.

    Args:
        draft: the source.
        path: its first file.
        opener: of that file.
    """
    captions, looked_at = [], list[bytes]()
    for row in _rows(path, opener, Wanted(draft.image_column, (draft.caption_column,))):
        captions.append(row.captions)
        data = row.image.data if isinstance(row.image, StoredImage) else None
        if data and len(looked_at) < NUM_LOOKED_AT:
            looked_at.append(data)
    return Found(sources=(counted_apart(draft, captions, look_at(looked_at)),))


def table_opener(path: Path) -> Opener:
    """Return what opens a table, by its name.

    Raises:
        DataError: it has the name of none.
    """
    opener = format_of(path.name)
    if opener is None:
        raise DataError("This file is no table.", expected=f"a name that ends in {', '.join(FORMATS)}", where=str(path))
    return opener


def columns_of(path: Path, opener: Opener) -> Columns:
    """Return which columns of a table hold images and which captions.

    Raises:
        DataError: it is damaged, or there are none of one kind.
    """
    rows = _first_values(path, opener)
    columns = judge_columns(rows)
    lacking = [text for text, found in (("images", columns.images), ("captions", columns.captions)) if not found]
    if lacking:
        raise DataError(
            f"The table has no column of {' and none of '.join(lacking)}.",
            expected=f"a column of file names ({', '.join(sorted(IMAGE_SUFFIXES))}), URLs or images; one of captions",
            found=f"columns {', '.join(rows) or 'none'}",
            where=str(path),
            fix="write such columns, or name them in a recipe of your own",
        )
    return columns


def judge_columns(rows: dict[str, list[Any]]) -> Columns:
    """Return which columns look like images and which like captions.

    Args:
        rows: some values of each column.
    """
    images, captions, held, urls = [], [], set(), set()
    for name, values in rows.items():
        given = [value for value in values if value is not None]
        flat = [inner for value in given for inner in (value if isinstance(value, list) else [value])]
        texts = [value for value in flat if isinstance(value, str) and value.strip()]
        if any(isinstance(value, StoredImage) for value in given):
            images.append(name)
            held.add(name)
        elif texts and sum(map(_is_image_name, texts)) > len(texts) / 2 and len(flat) == len(given):
            images.append(name)
            if sum(map(is_url, texts)) > len(texts) / 2:
                urls.add(name)
        elif len(texts) > len(flat) / 2 and (" " in "".join(texts) or name.lower() in CAPTION_NAMES):
            captions.append(name)
    return Columns(
        tuple(sorted(images, key=lambda name: (name in urls, _rank(name, IMAGE_NAMES)))),
        tuple(sorted(captions, key=lambda name: (_rank(name, CAPTION_NAMES), -_mean_length(rows[name])))),
        frozenset(held),
        frozenset(urls),
    )


def _grouped(path: Path, wanted: Wanted, images: Path | None) -> dict[str, list[object]]:
    """Return the captions of each name, as its column gives it, or relative to the folder that is said."""
    rules = NameRules.of_folder(str(images)) if images else NameRules()
    captions: dict[str, list[object]] = {}
    for row in _rows(path, table_opener(path), wanted):
        name = rules.relative(row.image)
        captions.setdefault(name if isinstance(name, str) else "", []).extend(row.captions)
    return captions


def _first_values(path: Path, opener: Opener) -> dict[str, list[Any]]:
    """Return the first values of every column."""
    with opener(_file(path)) as table:
        names = list(dict.fromkeys(table.names))
    return {
        name: [row.image for row in islice(_rows(path, opener, Wanted(name, (name,))), NUM_SAMPLED)] for name in names
    }


def _rows(path: Path, opener: Opener, wanted: Wanted) -> Iterator[Row]:
    with opener(_file(path)) as table:
        yield from (row for row in table.rows(wanted) if row.flaw is None)


def _file(path: Path) -> SourceFile:
    return files_of(str(path), bool)[0]


def _is_image_name(text: str) -> bool:
    return is_url(text) or PurePosixPath(text.replace("\\", "/")).suffix.lower() in IMAGE_SUFFIXES


def _rank(name: str, names: tuple[str, ...]) -> int:
    return names.index(name.lower()) if name.lower() in names else len(names)


def _mean_length(values: list[Any]) -> float:
    return sum(len(value) for value in values if isinstance(value, str)) / max(len(values), 1)
