"""The page's gallery: every image of every arm with its verdict, as data that the page's script reads."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from softalign.artifacts import EvalReport
from softalign.evaluation.intervals import OVERALL
from softalign.evaluation.packs import ArmImages
from softalign.evaluation.report.pictures import SMALL_IMAGE_PX, data_uris, image_size
from softalign.evaluation.suites import known_classes
from softalign.geneval.decision import select_objects
from softalign.geneval.detections import Detection, read_detections
from softalign.geneval.scoring import ImageResult

ARM_LABELS = {"base": "base model", "untrained": "untrained tokens", "adapter": "adapter"}
TAG_LABELS = {
    "single_object": "single object",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour attribution",
    OVERALL: "overall",
}


def tag_label(tag: str) -> str:
    """Return how a task is called on the page; one of a suite's own by its own name."""
    return TAG_LABELS.get(tag, tag.replace("_", " "))


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
class GalleryObject:
    """One detected object; ``counted`` says whether the decision took it into account."""

    name: str
    score: float
    box: tuple[float, ...]
    counted: bool


@dataclass(frozen=True)
class GalleryImage:
    """One arm's image of an entry: its verdict, the reason, its picture as a data URI, and its objects."""

    ok: bool
    why: str
    src: str
    found: tuple[GalleryObject, ...]


@dataclass(frozen=True)
class GalleryEntry:
    """One image of the suite, in every arm."""

    file: str
    tag: str
    prompt: str
    arms: tuple[GalleryImage, ...]


@dataclass(frozen=True)
class Gallery:
    """All that the gallery's script knows; its fields are the script's names. Sizes are in pixels."""

    width: int
    height: int
    crisp: bool
    arms: tuple[str, ...]
    tags: dict[str, str]
    entries: tuple[GalleryEntry, ...]


def gallery_of(arms: Sequence[ArmData]) -> Gallery:
    """Return the gallery of these arms, an entry for each image of the suite."""
    all_images = [arm.images for arm in arms]
    files = [
        partial(images.read, result.filename)
        for images, arm in zip(all_images, arms, strict=True)
        for result in arm.results
    ]
    width, height = image_size(files[0]())
    pictures = iter(data_uris(files))
    classes = known_classes(all_images[0].folders())
    images = [_images_of(arm, pictures, classes) for arm in arms]
    return Gallery(
        width=width,
        height=height,
        crisp=max(width, height) <= SMALL_IMAGE_PX,
        arms=tuple(ARM_LABELS[arm.report.arm] for arm in arms),
        tags={**TAG_LABELS, **{result.tag: tag_label(result.tag) for result in arms[0].results}},
        entries=tuple(
            GalleryEntry(result.filename, result.tag, result.prompt, shown)
            for result, shown in zip(arms[0].results, zip(*images, strict=True), strict=True)
        ),
    )


def _images_of(arm: ArmData, pictures: Iterator[str], classes: Collection[str]) -> list[GalleryImage]:
    """Return an arm's images, which are the next ones of ``pictures``."""
    detections = read_detections(arm.detections_path, classes)
    return [
        GalleryImage(result.correct, result.reason, next(pictures), _objects(result, detections[result.filename]))
        for result in arm.results
    ]


def _objects(result: ImageResult, detections: Sequence[Detection]) -> tuple[GalleryObject, ...]:
    counted = {id(one) for group in select_objects(detections, result.tag).values() for one in group}
    return tuple(
        GalleryObject(
            name=f"{detection.color} {detection.class_name}" if detection.color else detection.class_name,
            score=round(detection.score, 2),
            box=tuple(round(value, 1) for value in detection.box),
            counted=id(detection) in counted,
        )
        for detection in detections
    )


def script_json(value: Any) -> str:
    """Return JSON that can stand inside a script element: no ``<`` can end it early."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
