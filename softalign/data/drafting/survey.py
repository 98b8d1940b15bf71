"""What lies in a folder or table: the sources a recipe can name, and for everything else what to do with it."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from softalign.data.curation.table import FORMATS, is_table
from softalign.data.curation.webdataset import is_tar
from softalign.data.drafting.archives import find_saved, find_tars
from softalign.data.drafting.coco import find_coco, kind_of, refuse_other_kind
from softalign.data.drafting.images import folders_below, list_images
from softalign.data.drafting.pairs import find_pairs
from softalign.data.drafting.records import Alternative, Found, FoundSource
from softalign.data.drafting.tables import find_table
from softalign.errors import ConfigError, DataError, MissingInputError, SoftAlignError

SUPPORTED = (
    f"a COCO captions file (.json), a table of captions ({', '.join(FORMATS)}), images with .txt files of the same "
    "names, WebDataset tars, or a saved Hugging Face dataset"
)
MAX_TABLES = 100
"""A folder with more JSON files probably has one per image; of more tables only the first are read."""
ARCHIVES = {".zip", ".gz", ".7z"}


def survey(place: Path, images: Path | None) -> Found:
    """Return what can be used at a place.

    Args:
        place: a folder, or one table.
        images: the folder of images, where it is known.

    Raises:
        MissingInputError: the place, or the images of its tables, are not there.
        ConfigError: nothing there is a source; says what is there and what to do with it.
        DataError: a table cannot be used.
    """
    if not place.exists():
        raise MissingInputError(
            "There is nothing to look at.", expected="a folder or table of this machine", where=str(place)
        )
    if images is not None and not images.is_dir():
        raise MissingInputError("There is no such folder of images.", where=str(images), fix="check --images")
    if place.is_dir():
        return _survey_folder(place, images)
    folder = place.parent
    roots = [folder, *([folder.parent] if folder.name == "annotations" else [])]
    if is_table(place.name):
        return find_table(place, roots, images)
    if is_tar(place.name):
        return find_tars([place])
    if place.suffix.lower() == ".json":
        kind = kind_of(place)
        if kind != "captions":
            raise refuse_other_kind(place, kind)
        return find_coco(place, roots, images)
    raise no_source(place)


def _survey_folder(folder: Path, images: Path | None) -> Found:
    files = [path for below in folders_below(folder) for path in sorted(below.iterdir()) if path.is_file()]
    saved = {path.parent for path in files if path.name == "state.json"}
    files = [path for path in files if path.parent not in saved]
    jsons = [path for path in files if path.suffix.lower() == ".json"]
    per_folder = Counter(path.parent for path in jsons)
    kinds = {path: kind_of(path) for path in jsons if per_folder[path.parent] <= MAX_TABLES}
    all_tables = [path for path in files if is_table(path.name)]
    tables = all_tables[:MAX_TABLES]
    readings = [
        *(partial(find_coco, path, [folder], images) for path, kind in kinds.items() if kind == "captions"),
        *(partial(find_table, path, [folder], images) for path in tables),
        *(partial(find_tars, paths) for paths in _tars(files)),
        *(partial(find_saved, path) for path in sorted(saved)),
    ]
    founds: list[Found] = []
    errors: list[SoftAlignError] = []
    for reading in readings:
        try:
            founds.append(reading())
        except (DataError, MissingInputError) as error:
            errors.append(error)
    if not founds:
        if (pairs := find_pairs(folder)) is not None:
            return pairs
        others = [(path, kind) for path, kind in kinds.items() if kind]
        raise errors[0] if errors else _nothing(folder, files, others)
    notes = [f"{error.where}: passed over: {error.what}" for error in errors]
    notes += [
        f"{path}: {kind.replace('_', ' ')}, no captions" for path, kind in kinds.items() if kind not in {"", "captions"}
    ]
    for below, number in per_folder.items():
        if number > MAX_TABLES:
            notes.append(f"{below}: {number} JSON files, more than {MAX_TABLES}, were not looked at")
    if len(all_tables) > len(tables):
        notes.append(f"{folder}: of {len(all_tables)} tables the first {MAX_TABLES} were looked at")
    return _combine(founds, notes)


def _tars(files: list[Path]) -> list[list[Path]]:
    """Return the tars among some files, those of each folder together."""
    by_folder: dict[Path, list[Path]] = {}
    for path in files:
        if is_tar(path.name):
            by_folder.setdefault(path.parent, []).append(path)
    return list(by_folder.values())


def _combine(founds: list[Found], notes: list[str]) -> Found:
    """Return one reading: the table with most captions, and those that are like it (parts of one table)."""
    founds.sort(key=lambda found: -found.sources[0].num_captions)
    first = founds[0].sources[0]
    used: list[FoundSource] = []
    alternatives = list(founds[0].alternatives)
    for found in founds:
        (source,) = found.sources
        if source is first or _are_parts(first, source):
            used.append(source)
        else:
            why = f"another table: {source.num_images} images, {source.num_captions} captions"
            alternatives.append(Alternative(source=source.source, why=why))
    used.sort(key=lambda source: source.source.table)
    notes += [note for found in founds for note in found.notes]
    return Found(sources=tuple(used), alternatives=tuple(alternatives), notes=tuple(dict.fromkeys(notes)))


def _are_parts(first: FoundSource, other: FoundSource) -> bool:
    """Return whether two sources are tables of one format in one folder, with the same columns and images."""
    alike = first.source.model_copy(update={"table": other.source.table}) == other.source
    one, two = Path(first.source.table), Path(other.source.table)
    return first.source.type in {"parquet", "table"} and alike and (one.parent, one.suffix) == (two.parent, two.suffix)


def no_source(path: Path) -> ConfigError:
    """Return the refusal of a file that is no source, and how it becomes one."""
    fix = "unpack it, then name the folder" if path.suffix.lower() in ARCHIVES else "name the folder or the table"
    return ConfigError(
        "This file is no source of captions.", expected=SUPPORTED, found=path.name, where=str(path), fix=fix
    )


def _nothing(folder: Path, paths: list[Path], others: list[tuple[Path, str]]) -> SoftAlignError:
    if others:
        return refuse_other_kind(*others[0])
    num_images = len(list_images(folder))
    counts = Counter(path.suffix.lower() or "no suffix" for path in paths)
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in counts.most_common(5))
    if num_images:
        what = "There are images here, but no captions."
        fix = (
            "write the captions to a table with the columns file_name and caption, a row per caption, or to a .txt "
            "file of the same name beside each image"
        )
    else:
        what, fix = "There is nothing here that can be trained on.", "name another folder"
    found = f"{num_images} images; files: {kinds or 'none'}"
    return ConfigError(what, expected=SUPPORTED, found=found, where=str(folder), fix=fix)
