"""What a detector returns, whatever it is, and the JSON-lines file that recorded detections are kept in."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from softalign.artifacts import Frozen
from softalign.errors import DataError, MissingInputError
from softalign.problems import problems

COCO_ALIASES: dict[str, str] = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""COCO's labels where GenEval's names differ (same indices)."""

LINE_FORMAT = '{"filename": ..., "detections": [{"class": ..., "score": 0..1, "box": [x0, y0, x1, y1]}, ...]}'
"""One image's line of a detections file; ``color`` beside ``class`` where a prompt asks for one."""


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
        path: JSON lines as written by ``write_detections``; empty lines are skipped.
        classes: the object names that may occur; COCO's differing labels are translated first.

    Raises:
        MissingInputError: there is no such file.
        DataError: a malformed line, an unknown class, or an image listed twice; names the line.
    """
    if not path.is_file():
        raise MissingInputError("There is no such detections file.", where=str(path), fix="check --detections")
    found: dict[str, tuple[Detection, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        filename, detections = _parse_line(line, where)
        for detection in detections:
            if detection.class_name not in classes:
                raise DataError(
                    f"A detection has the unknown class {detection.class_name!r}.",
                    expected="a GenEval class name, or one that a prompt of the folder names",
                    found=detection.class_name,
                    where=where,
                    fix="translate the detector's labels to GenEval's names; drop the objects it does not know",
                )
        if filename in found:
            raise DataError(
                "An image is listed twice.", expected="one line an image", found=filename, where=where, fix="merge them"
            )
        found[filename] = detections
    return found


def _parse_line(line: str, where: str) -> tuple[str, tuple[Detection, ...]]:
    try:
        row = json.loads(line)
        filename = row["filename"]
        if not isinstance(filename, str):
            raise TypeError("filename is not a string")
        detections = tuple(_parse_detection(entry) for entry in row["detections"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            "A line of the detections file is malformed.",
            expected=LINE_FORMAT,
            found=_brief(error),
            where=where,
        ) from error
    return filename, detections


def _parse_detection(entry: dict[str, Any]) -> Detection:
    unknown = sorted(set(entry) - {"class", "score", "box", "color"})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} in a detection")
    name = entry["class"]
    detection = Detection(
        class_name=COCO_ALIASES.get(name, name), score=entry["score"], box=entry["box"], color=entry.get("color")
    )
    x0, y0, x1, y1 = detection.box
    if not (np.isfinite(detection.box).all() and x0 <= x1 and y0 <= y1):
        raise ValueError(f"box {list(detection.box)} is not x0 <= x1, y0 <= y1")
    if not 0.0 <= detection.score <= 1.0:
        raise ValueError(f"score {detection.score} is not within 0..1")
    return detection


def _brief(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return problems(error)[0]
    if isinstance(error, KeyError):
        return f"no key {error.args[0]!r}"
    return str(error)
