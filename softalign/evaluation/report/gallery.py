"""The page's gallery: every image of every column with its verdict, as data that the page's script reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from softalign.artifacts import EvalReport
from softalign.evaluation.packs import ArmImages
from softalign.evaluation.report.columns import Column, Pair, tag_label
from softalign.evaluation.report.pictures import PAGE_BYTES, SMALL_IMAGE_PX, PictureFile, Size, pictures_of
from softalign.evaluation.suites import known_classes
from softalign.geneval.decision import select_objects
from softalign.geneval.detections import Detection, read_detections
from softalign.geneval.scoring import ImageResult

MAX_OBJECTS = 24
"""Of an image: those that count first, then by score; how many more there are is said."""
REST_OF_PAGE_BYTES = 250_000
"""What a page needs beside its gallery: curves, tables, style and script (measured: 89 kB with three curves)."""
_WHOLE = 1000
"""Boxes are in thousandths of the image's width and height."""
_UNKNOWN: Size = (_WHOLE, _WHOLE)
"""The size of an image that is not at hand."""
_Five = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
_DETAILS: TypeAdapter[dict[str, list[_Five]]] = TypeAdapter(dict[str, list[_Five]])
"""Of a result: the counted objects by class, each with its box and score."""
Row = list[Any]
"""A row of the script's data; ``Gallery`` says what stands where."""


class ArmData(Protocol):
    """What the page needs of an arm (``softalign.evaluation.compare.ArmFiles``)."""

    @property
    def report(self) -> EvalReport:
        """The arm's record."""
        ...

    @property
    def results(self) -> tuple[ImageResult, ...]:
        """One result an image, in the suite's order."""
        ...

    @property
    def images(self) -> ArmImages:
        """The images, and the prompts they were made of."""
        ...

    @property
    def detections_path(self) -> Path:
        """The recorded detections."""
        ...


@dataclass(frozen=True)
class ShownImages:
    """A column's images.

    Attributes:
        results: their verdicts; those of the same place in all columns are of the same prompt and noise.
        reader: returns what reads an image's file by its name; None: the image is not at hand.
        detections: by file name; None: the boxes that the results themselves keep.
    """

    results: Sequence[ImageResult]
    reader: Callable[[str], Callable[[], bytes] | None]
    detections: Mapping[str, Sequence[Detection]] | None = None

    @classmethod
    def of_arm(cls, arm: ArmData) -> ShownImages:
        """Return a published arm's."""
        images = arm.images
        detections = read_detections(arm.detections_path, known_classes(images.folders()))
        return cls(arm.results, lambda filename: partial(images.read, filename), detections)


@dataclass(frozen=True)
class Gallery:
    """All that the gallery's script knows; its fields are the script's names.

    Attributes:
        width: of the first image, in pixels, as is ``height``.
        crisp: pixel art, which is shown with hard pixels.
        prefix: what every picture's data URI begins with.
        columns: of each its label, and its name within sentences.
        pairs: numbers of columns, candidate and reference.
        tags: how tasks are called.
        names: of objects.
        entries: of each image file name, tag, prompt, and of each column ``[is correct, reason, picture as base64,
            objects, number of objects left out]``; an object is ``[number of its name, score in hundredths, x0, y0, x1,
            y1 in thousandths, is counted]``. An image that cannot be shown has an empty picture; where results keep no
            objects, these are null.
    """

    width: int
    height: int
    crisp: bool
    prefix: str
    columns: tuple[tuple[str, str], ...]
    pairs: tuple[tuple[int, int], ...]
    tags: dict[str, str]
    names: tuple[str, ...]
    entries: tuple[Row, ...]

    @property
    def is_empty(self) -> bool:
        """Whether no image is at hand."""
        return not any(image[2] for entry in self.entries for image in entry[3])


def gallery_of(shown: Sequence[ShownImages], columns: Sequence[Column], pairs: Sequence[Pair]) -> Gallery:
    """Return the gallery, an entry for each image, with pictures as large as the page's bytes allow."""
    readers = [[one.reader(result.filename) for result in one.results] for one in shown]
    told = _told(shown)
    files = [PictureFile(read, one) for reads in readers for read, one in zip(reads, told, strict=True) if read]
    names: dict[str, int] = {}
    without_pictures = [[_image(one, result, "", _UNKNOWN, names) for result in one.results] for one in shown]
    entries = _entries(shown, without_pictures)
    if files:
        pictures = pictures_of(files, PAGE_BYTES - REST_OF_PAGE_BYTES - len(script_json(entries)))
        left = zip(pictures.base64, pictures.sizes, strict=True)
        images = [
            [
                _image(one, result, *(next(left) if read else ("", _UNKNOWN)), names)
                for result, read in zip(one.results, reads, strict=True)
            ]
            for one, reads in zip(shown, readers, strict=True)
        ]
        entries = _entries(shown, images)
    width, height = pictures.sizes[0] if files else _UNKNOWN
    return Gallery(
        width=width,
        height=height,
        crisp=max(width, height) <= SMALL_IMAGE_PX,
        prefix=f"data:{pictures.media_type};base64," if files else "",
        columns=tuple((column.label, column.name) for column in columns),
        pairs=tuple((pair.candidate, pair.reference) for pair in pairs),
        tags={result.tag: tag_label(result.tag) for result in shown[0].results},
        names=tuple(names),
        entries=entries,
    )


def _told(shown: Sequence[ShownImages]) -> list[bool]:
    """Return of which entries people look at the pictures first: where columns differ, unless most do."""
    verdicts = zip(*([result.correct for result in one.results] for one in shown), strict=True)
    told = [len(set(one)) > 1 for one in verdicts]
    return told if 2 * sum(told) <= len(told) else [False] * len(told)


def _entries(shown: Sequence[ShownImages], images: Sequence[Sequence[Row]]) -> tuple[Row, ...]:
    places = zip(shown[0].results, zip(*images, strict=True), strict=True)
    return tuple([result.filename, result.tag, result.prompt, list(one)] for result, one in places)


def _image(one: ShownImages, result: ImageResult, picture: str, size: Size, names: dict[str, int]) -> Row:
    """Return an image's row; ``names`` numbers objects and is added to."""
    objects = _detected(one, result)
    if objects is None:
        return [int(result.correct), result.reason, picture, None, 0]
    kept = sorted(objects, key=lambda found: (not found.counted, -found.score))[:MAX_OBJECTS]
    rows = [_row(found, size, names.setdefault(found.name, len(names))) for found in kept]
    return [int(result.correct), result.reason, picture, rows, len(objects) - len(kept)]


def _row(found: _Object, size: Size, name: int) -> Row:
    return [name, round(100 * found.score), *_in_thousandths(found.box, size), int(found.counted)]


def _in_thousandths(box: Sequence[float], size: Size) -> list[int]:
    parts = (_WHOLE * value / size[axis % 2] for axis, value in enumerate(box))
    return [round(min(max(part, -_WHOLE), 2 * _WHOLE)) for part in parts]


@dataclass(frozen=True, slots=True)
class _Object:
    """One detected object; ``counted`` says whether the decision took it into account."""

    name: str
    score: float
    box: Sequence[float]
    counted: bool


def _detected(one: ShownImages, result: ImageResult) -> list[_Object] | None:
    """Return an image's objects: those that were detected, or those that its result keeps; None: it keeps none."""
    if one.detections is None:
        return _kept(result)
    detections = one.detections[result.filename]
    counted = {id(found) for group in select_objects(detections, result.tag).values() for found in group}
    return [
        _Object(
            name=f"{found.color} {found.class_name}" if found.color else found.class_name,
            score=found.score,
            box=found.box,
            counted=id(found) in counted,
        )
        for found in detections
    ]


def _kept(result: ImageResult) -> list[_Object] | None:
    try:
        details = _DETAILS.validate_json(result.details)
    except ValidationError:
        return None
    return [_Object(name, found[4], found[:4], counted=True) for name, group in details.items() for found in group]


def script_json(value: Any) -> str:
    """Return JSON that can stand inside a script element: no ``<`` can end it early."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
