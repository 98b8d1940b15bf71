"""The forms in which people keep detections, each turned into rows of one form: an image, and what was found in it.

JSON lines (``LINE_FORMAT``); one JSON array of such lines; one object ``{file name: detections}``; detections as a list
of objects, grouped by class (``{class: [[x0, y0, x1, y1, score], ...]}``), or as ``labels``, ``scores`` and ``boxes``
side by side; COCO's results (``image_id``, ``category_id``, ``bbox`` as x, y, width, height, ``score``), alone or with
``images`` and ``categories``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from softalign.errors import DataError
from softalign.geneval.mask_boxes import box_of_mask
from softalign.geneval.prompts import json_lines

LINE_FORMAT = '{"filename": ..., "detections": [{"class": ..., "score": 0..1, "box": [x0, y0, x1, y1]}, ...]}'
"""One image's line of a detections file; ``color`` beside ``class`` where a prompt asks for one."""

_LABELS = ("class", "label", "class_name", "category_id")
_MASKS = ("mask", "segmentation")
_NOT_NEEDED = {"id", "area", "iscrowd", "label_id", "image_id", "file_name", *_MASKS}
_MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError)
_HF_BOX = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class FoundObject:
    """One detection as a file has it: ``label`` is a name or a number, the box x0, y0, x1, y1."""

    label: Any
    score: Any
    box: Any
    color: Any = None


@dataclass(frozen=True)
class ImageRow:
    """What a file says of one image, and where in the file."""

    filename: str
    objects: tuple[FoundObject, ...]
    where: str


@dataclass(frozen=True)
class DetectionsFile:
    """A whole file: its images in order, and the names it has itself for category numbers."""

    rows: tuple[ImageRow, ...]
    categories: Mapping[int, str] = field(default_factory=dict)


def parse_detections(text: str, where: str) -> DetectionsFile:
    """Return what a detections file says, whichever form it has.

    Raises:
        DataError: it is none of the forms; names the line or entry.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            raise _malformed(error, where) from error
        return DetectionsFile(tuple(_lines(text, where)))
    if isinstance(document, dict) and "filename" not in document and "detections" not in document:
        if "annotations" in document:
            return _coco(document["annotations"], document, where)
        return DetectionsFile(tuple(_by_file(document, where)))
    entries = document if isinstance(document, list) else [document]
    if entries and all(isinstance(entry, dict) and "category_id" in entry for entry in entries):
        return _coco(entries, {}, where)
    unit = "entry" if isinstance(document, list) else "line"
    return DetectionsFile(tuple(_row(entry, f"{where}, {unit} {n}") for n, entry in enumerate(entries, start=1)))


def _lines(text: str, where: str) -> Iterator[ImageRow]:
    for number, line in enumerate(json_lines(text), start=1):
        if line.strip():
            place = f"{where}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _malformed(error, place) from error
            yield _row(row, place)


def _row(row: Any, where: str) -> ImageRow:
    try:
        filename = row["filename"] if "filename" in row else row["file_name"]
        if not isinstance(filename, str):
            raise TypeError("filename is not a string")
        found = row["detections"] if "detections" in row or "labels" not in row else row
        return ImageRow(filename, tuple(_objects(found)), where)
    except _MALFORMED as error:
        raise _malformed(error, where) from error


def _by_file(document: dict[str, Any], where: str) -> Iterator[ImageRow]:
    for filename, found in document.items():
        yield _row({"filename": filename, "detections": found}, f"{where}, {filename}")


def _objects(found: Any) -> Iterator[FoundObject]:
    if isinstance(found, dict) and "labels" in found and "scores" in found:
        boxes = found["boxes"] if "boxes" in found else found["bboxes"]
        yield from (FoundObject(*each) for each in zip(found["labels"], found["scores"], boxes, strict=True))
    elif isinstance(found, dict):
        for name, rows in found.items():
            for row in rows:
                *box, score = row
                yield FoundObject(name, score, box)
    elif isinstance(found, list):
        yield from map(_object, found)
    else:
        raise TypeError(f"detections are no list, but {type(found).__name__}")


def _object(entry: Any) -> FoundObject:
    """Return a detection of our form, with the words that other tools use for it."""
    unknown = sorted(set(entry) - {"score", "box", "color", *_LABELS, *_NOT_NEEDED})
    if "bbox" in unknown:
        raise ValueError("bbox may be corners or x, y, width, height: name it box, with x0, y0, x1, y1")
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} in a detection")
    label = next((entry[name] for name in _LABELS if name in entry), None)
    if label is None:
        raise KeyError("class")
    box = _box(entry)
    if len(box) == 5 and entry.get("score", box[4]) == box[4]:
        return FoundObject(label, box[4], box[:4], entry.get("color"))
    return FoundObject(label, entry["score"], box, entry.get("color"))


def _box(entry: dict[str, Any]) -> Any:
    if "box" not in entry:
        mask = next((entry[name] for name in _MASKS if name in entry), None)
        if mask is None:
            raise KeyError("box")
        return box_of_mask(mask)
    box = entry["box"]
    return [box[side] for side in _HF_BOX] if isinstance(box, dict) else box


def _coco(results: Any, document: dict[str, Any], where: str) -> DetectionsFile:
    """Return COCO's results by image; those of ``images`` without a result have no objects."""
    try:
        results = list(results)
        images = {image["id"]: image["file_name"] for image in document.get("images", ())}
        categories = {category["id"]: category["name"] for category in document.get("categories", ())}
        found: dict[str, list[FoundObject]] = {filename: [] for filename in images.values()}
    except _MALFORMED as error:
        raise _malformed(error, where) from error
    for number, result in enumerate(results, start=1):
        try:
            found.setdefault(_image_of(result, images), []).append(_coco_object(result))
        except _MALFORMED as error:
            raise _malformed(error, f"{where}, entry {number}") from error
    rows = (ImageRow(filename, tuple(objects), f"{where}, {filename}") for filename, objects in found.items())
    return DetectionsFile(tuple(rows), categories)


def _image_of(result: dict[str, Any], images: Mapping[Any, str]) -> str:
    if isinstance(result.get("file_name"), str):
        return str(result["file_name"])
    image = result["image_id"]
    if image in images:
        return images[image]
    if not isinstance(image, str):
        raise ValueError(f'image_id {image} has no file name: add "images": [{{"id": ..., "file_name": ...}}, ...]')
    return image


def _coco_object(result: dict[str, Any]) -> FoundObject:
    if "bbox" in result:
        x, y, width, height = result["bbox"]
        box = [x, y, x + width, y + height]
    else:
        box = box_of_mask(result["segmentation"])
    return FoundObject(result["category_id"], result["score"], box, result.get("color"))


def _malformed(error: Exception, where: str) -> DataError:
    found = f"no key {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
    return DataError("A line of the detections file is malformed.", expected=LINE_FORMAT, found=found, where=where)
