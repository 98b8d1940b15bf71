"""What a detector returns, whatever it is, and the file that recorded detections are kept in."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from softalign.artifacts import Frozen
from softalign.errors import DataError, MissingInputError
from softalign.geneval.detection_forms import LINE_FORMAT, DetectionsFile, FoundObject, ImageRow, parse_detections
from softalign.geneval.labels import names_of_numbers, translated
from softalign.geneval.layout import relative_names
from softalign.problems import problems

_ROUNDING = 1e-6
"""How far above 1 a score may lie and still be meant as 1: float32's rounding of a softmax."""


class Detection(Frozen):
    """One detected object: box in pixels (x0, y0, x1, y1), score 0..1, colour where the detector names one."""

    class_name: str
    score: float
    box: tuple[float, float, float, float]
    color: str | None = None


class Detector(Protocol):
    """Finds objects in images."""

    def __call__(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Return the detections of each image (uint8, H W 3)."""
        ...


def detections_to_line(filename: str, detections: Sequence[Detection]) -> str:
    """Return one image's line of a detections file (without newline)."""
    rows = []
    for detection in detections:
        row: dict[str, Any] = {
            "class": detection.class_name,
            "score": detection.score,
            "box": list(detection.box),
        }
        if detection.color is not None:
            row["color"] = detection.color
        rows.append(row)
    return json.dumps({"filename": filename, "detections": rows})


def write_detections(path: Path, detections: Mapping[str, Sequence[Detection]]) -> None:
    """Write a detections file, one image a line, in the mapping's order."""
    lines = [detections_to_line(filename, found) + "\n" for filename, found in detections.items()]
    path.write_text("".join(lines), encoding="utf-8")


def read_detections(path: Path, classes: Collection[str]) -> dict[str, tuple[Detection, ...]]:
    """Return the detections of each image, by file name relative to the scored folder.

    Args:
        path: as written by ``write_detections``, or in another of the forms of ``detection_forms``; empty lines are
            skipped. Names of files may have a folder in front, the same in all.
        classes: the object names that may occur; other spellings of them are translated (``labels``).

    Raises:
        MissingInputError: there is no such file.
        DataError: a malformed line, unknown classes, or an image listed twice; names the line.
    """
    if not path.is_file():
        raise MissingInputError("There is no such detections file.", where=str(path), fix="check --detections")
    file = parse_detections(path.read_text(encoding="utf-8-sig", errors="replace"), str(path))
    names = _names(file, classes, str(path))
    relative = relative_names([row.filename for row in file.rows], str(path))
    found: dict[str, tuple[Detection, ...]] = {}
    for row in file.rows:
        filename = relative[row.filename]
        if filename in found:
            raise DataError(
                "An image is listed twice.",
                expected="one line an image",
                found=filename,
                where=row.where,
                fix="merge them",
            )
        found[filename] = _detections_of(row, names)
    return found


def _names(file: DetectionsFile, classes: Collection[str], where: str) -> dict[Any, str]:
    """Return the class that each label of a file means, number or name."""
    labels = dict.fromkeys(found.label for row in file.rows for found in row.objects if _is_label(found.label))
    numbers = {label for label in labels if isinstance(label, int)}
    texts = names_of_numbers(numbers, file.categories, where) if numbers else {}
    spelled = [texts.get(label, label) for label in labels]
    meant = translated(spelled, classes, where)
    return {label: meant[text] for label, text in zip(labels, spelled, strict=True)}


def _is_label(label: object) -> bool:
    return isinstance(label, str | int) and not isinstance(label, bool)


def _detections_of(row: ImageRow, names: Mapping[Any, str]) -> tuple[Detection, ...]:
    try:
        return tuple(_detection(found, names) for found in row.objects)
    except ValueError as error:  # pydantic's is one
        raise DataError(
            "A line of the detections file is malformed.",
            expected=LINE_FORMAT,
            found=problems(error)[0] if isinstance(error, ValidationError) else str(error),
            where=row.where,
        ) from error


def _detection(found: FoundObject, names: Mapping[Any, str]) -> Detection:
    if not _is_label(found.label):
        raise ValueError(f"class {found.label!r} is neither a name nor a number")
    detection = Detection(class_name=names[found.label], score=found.score, box=found.box, color=found.color)
    x0, y0, x1, y1 = detection.box
    if not (all(map(isfinite, detection.box)) and x0 <= x1 and y0 <= y1):
        raise ValueError(f"box {list(detection.box)} is not x0 <= x1, y0 <= y1")
    if not 0.0 <= detection.score <= 1.0 + _ROUNDING:
        raise ValueError(f"score {detection.score} is not within 0..1")
    return detection if detection.score <= 1.0 else detection.model_copy(update={"score": 1.0})
