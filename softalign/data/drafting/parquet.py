"""Parquet tables: which columns hold image paths and captions, guessed and said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from softalign.data.drafting.coco import counted
from softalign.data.drafting.images import IMAGE_SUFFIXES, find_images
from softalign.data.drafting.records import Alternative, Found, SourceDraft
from softalign.errors import DataError

IMAGE_NAMES = ("file_name", "filename", "image_path", "path", "image", "file", "img", "image_file")
CAPTION_NAMES = ("caption", "text", "captions", "prompt", "description", "title", "label")
"""Names such columns usually have, the likeliest first."""
NUM_SAMPLED = 200
"""Rows that columns are judged by."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns that may hold paths and captions, the likeliest first, and why others cannot."""

    images: tuple[str, ...]
    captions: tuple[str, ...]
    problems: tuple[str, ...]


def find_parquet(path: Path, roots: list[Path], images: Path | None) -> Found:
    """Return what a table lists, with its other readings.

    Raises:
        DataError: it is no sound Parquet file, or has no such columns.
        MissingInputError: the images are nowhere.
    """
    rows = _read(path, None)
    columns = judge_columns(rows)
    if not columns.images or not columns.captions:
        raise _no_columns(path, rows, columns)
    image_column, caption_column = columns.images[0], columns.captions[0]
    captions: dict[str, list[object]] = {}
    names, texts = (_read(path, [column])[column] for column in (image_column, caption_column))
    for name, text in zip(names, texts, strict=True):
        captions.setdefault(name or "", []).append(text)
    folders = find_images(list(captions), [images] if images else roots, path)

    def draft(folder: Path, image: str, caption: str) -> SourceDraft:
        return SourceDraft(
            type="parquet", table=str(path), images=str(folder), image_column=image, caption_column=caption
        )

    chosen = folders.chosen
    others = [
        *(
            (draft(folder, image_column, caption_column), "the same file names are in this folder too")
            for folder in folders.others
        ),
        *((draft(chosen, name, caption_column), "this column holds file names too") for name in columns.images[1:]),
        *((draft(chosen, image_column, name), "this column holds text too") for name in columns.captions[1:]),
    ]
    source = counted(draft(chosen, image_column, caption_column), captions)
    alternatives = tuple(Alternative(source=other, why=why) for other, why in others)
    return Found(sources=(source,), alternatives=alternatives, notes=columns.problems)


def judge_columns(rows: dict[str, list[Any]]) -> Columns:
    """Return which columns look like paths of images and which like captions.

    Args:
        rows: some values of each column.
    """
    images, captions, problems = [], [], []
    for name, values in rows.items():
        texts = [value for value in values if isinstance(value, str) and value.strip()]
        given = [value for value in values if value is not None]
        if any((isinstance(value, dict) and "bytes" in value) or isinstance(value, bytes) for value in given):
            problems.append(f"column {name} holds images themselves: write them to files, and a column of their names")
        elif any(isinstance(value, list) for value in given):
            problems.append(f"column {name} holds lists: a table needs one row per caption")
        elif texts and sum(_is_image_name(text) for text in texts) > len(texts) / 2:
            images.append(name)
        elif texts and len(texts) == len(given) and (" " in "".join(texts) or name.lower() in CAPTION_NAMES):
            captions.append(name)
    return Columns(
        tuple(sorted(images, key=lambda name: _rank(name, IMAGE_NAMES))),
        tuple(sorted(captions, key=lambda name: (_rank(name, CAPTION_NAMES), -_mean_length(rows[name])))),
        tuple(problems),
    )


def _read(path: Path, columns: list[str] | None) -> dict[str, list[Any]]:
    """Return the values of columns; without columns, the first rows of all of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            if columns is not None:
                return dict(table.read(columns).to_pydict())
            batch = next(table.iter_batches(NUM_SAMPLED), None)
            return {name: [] for name in table.schema_arrow.names} if batch is None else dict(batch.to_pydict())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError("This is no sound Parquet file.", found=str(error), where=str(path)) from error


def _no_columns(path: Path, rows: dict[str, list[Any]], columns: Columns) -> DataError:
    lacking = [text for text, found in (("image files", columns.images), ("captions", columns.captions)) if not found]
    return DataError(
        f"The table has no column of {' and none of '.join(lacking)}.",
        expected=f"a column of file names ({', '.join(sorted(IMAGE_SUFFIXES))}) and one of captions, a row per caption",
        found="; ".join([f"columns {', '.join(rows) or 'none'}", *columns.problems]),
        where=str(path),
        fix="write such columns, or set image_column and caption_column in a recipe of your own",
    )


def _is_image_name(text: str) -> bool:
    return PurePosixPath(text).suffix.lower() in IMAGE_SUFFIXES


def _rank(name: str, names: tuple[str, ...]) -> int:
    return names.index(name.lower()) if name.lower() in names else len(names)


def _mean_length(values: list[Any]) -> float:
    return sum(len(value) for value in values if isinstance(value, str)) / max(len(values), 1)
