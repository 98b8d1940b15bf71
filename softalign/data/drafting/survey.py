"""What lies in a folder or table: the sources a recipe can name, and for everything else what to do with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from softalign.data.drafting.coco import find_coco, kind_of, refuse_other_kind
from softalign.data.drafting.images import folders_below, list_images
from softalign.data.drafting.parquet import find_parquet
from softalign.data.drafting.records import Alternative, Found, FoundSource
from softalign.errors import ConfigError, DataError, MissingInputError, SoftAlignError

SUPPORTED = "a COCO captions file (.json) or a Parquet table (.parquet) of captions, with a folder of images"
MAX_TABLES = 100
"""A folder with more JSON files probably has one per image; of more Parquet files only the first are read."""
READERS = {".csv": "csv.read_csv", ".tsv": "csv.read_csv", ".jsonl": "json.read_json", ".ndjson": "json.read_json"}
"""What of pyarrow reads tables that are no source."""
ARCHIVES = {".tar", ".zip", ".gz", ".tgz", ".7z"}


def survey(place: Path, images: Path | None, *, ignored: Path | None = None) -> Found:
    """Return what can be used at a place.

    Args:
        place: a folder, or one table.
        images: the folder of images, where it is known.
        ignored: a table that will be replaced.

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
        return _survey_folder(place, images, ignored.resolve() if ignored else None)
    folder = place.parent
    roots = [folder, *([folder.parent] if folder.name == "annotations" else [])]
    if place.suffix.lower() == ".parquet":
        return find_parquet(place, roots, images)
    if place.suffix.lower() == ".json":
        kind = kind_of(place)
        if kind != "captions":
            raise refuse_other_kind(place, kind)
        return find_coco(place, roots, images)
    raise no_source(place)


def _survey_folder(folder: Path, images: Path | None, ignored: Path | None) -> Found:
    there = [path for below in folders_below(folder) for path in sorted(below.iterdir()) if path.is_file()]
    tables = [path for path in there if ignored is None or path.resolve() != ignored]
    jsons = [path for path in tables if path.suffix.lower() == ".json"]
    per_folder = Counter(path.parent for path in jsons)
    kinds = {path: kind_of(path) for path in jsons if per_folder[path.parent] <= MAX_TABLES}
    captions = [path for path, kind in kinds.items() if kind == "captions"]
    all_parquet = [path for path in tables if path.suffix.lower() == ".parquet"]
    parquet = all_parquet[:MAX_TABLES]
    founds: list[Found] = []
    errors: list[SoftAlignError] = []
    readers: list[tuple[Callable[[Path, list[Path], Path | None], Found], list[Path]]]
    readers = [(find_coco, captions), (find_parquet, parquet)]
    for reader, paths in readers:
        for path in paths:
            try:
                founds.append(reader(path, [folder], images))
            except (DataError, MissingInputError) as error:
                errors.append(error)
    if not founds:
        others = [(path, kind) for path, kind in kinds.items() if kind]
        raise errors[0] if errors else _nothing(folder, tables, others)
    notes = [f"{error.where}: passed over: {error.what}" for error in errors]
    notes += [
        f"{path}: {kind.replace('_', ' ')}, no captions" for path, kind in kinds.items() if kind not in {"", "captions"}
    ]
    for below, number in per_folder.items():
        if number > MAX_TABLES:
            notes.append(f"{below}: {number} JSON files, more than {MAX_TABLES}, were not looked at")
    if len(all_parquet) > len(parquet):
        notes.append(f"{folder}: of {len(all_parquet)} Parquet files the first {MAX_TABLES} were looked at")
    return _combine(founds, notes)


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
    """Return whether two sources are Parquet files of one folder with the same columns and images."""
    alike = first.source.model_copy(update={"table": other.source.table}) == other.source
    return (
        first.source.type == "parquet" and alike and Path(first.source.table).parent == Path(other.source.table).parent
    )


def no_source(path: Path) -> ConfigError:
    """Return the refusal of a file that is no source, and how it becomes one."""
    suffix = path.suffix.lower()
    expected = SUPPORTED
    if reader := READERS.get(suffix):
        target = path.with_suffix(".parquet")
        options = ", parse_options=t.ParseOptions(delimiter='\\t')" if suffix == ".tsv" else ""
        module, function = reader.split(".")
        script = (
            f"import pyarrow.{module} as t, pyarrow.parquet as p; "
            f"p.write_table(t.{function}('{path}'{options}), '{target}')"
        )
        fix = f'make a Parquet table of it: python -c "{script}"; then `softalign init {target}`'
    elif suffix in ARCHIVES:
        fix = "unpack it, then name the folder"
    else:
        fix = "name the folder or the table"
    return ConfigError(
        "This file is no source of captions.", expected=expected, found=path.name, where=str(path), fix=fix
    )


def _nothing(folder: Path, paths: list[Path], others: list[tuple[Path, str]]) -> SoftAlignError:
    if others:
        return refuse_other_kind(*others[0])
    tables = [path for path in paths if path.suffix.lower() in READERS]
    if tables:
        return no_source(tables[0])
    num_images = len(list_images(folder))
    counts = Counter(path.suffix.lower() or "no suffix" for path in paths)
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in counts.most_common(5))
    if num_images:
        what = "There are images here, but no captions."
        fix = (
            "write the captions to a Parquet table with the columns file_name and caption, a row per caption, or to a "
            ".txt file of the same name beside each image"
        )
    else:
        what, fix = "There is nothing here that can be trained on.", "name another folder"
    found = f"{num_images} images; files: {kinds or 'none'}"
    return ConfigError(what, expected=SUPPORTED, found=found, where=str(folder), fix=fix)
