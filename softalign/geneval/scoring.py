"""From decisions to GenEval's scores: of an image, of prompt folders with recorded detections, of a suite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from softalign.artifacts import Frozen
from softalign.artifacts.scores import UNKNOWN_DETECTOR
from softalign.errors import DataError
from softalign.geneval.completeness import Lack
from softalign.geneval.decision import decide, select_objects
from softalign.geneval.detections import Detection
from softalign.geneval.layout import PromptFolder
from softalign.geneval.prompts import GenevalPrompt, Tag, json_lines, tags_in_order, to_metadata
from softalign.problems import problems

RESULTS_FILENAME = "results.jsonl"


class ImageResult(Frozen):
    """One line of ``results.jsonl``, with the official fields.

    Attributes:
        filename: the image's path relative to the scored folder.
        reason: why it is wrong, one sentence a line; empty if correct.
        metadata: the prompt's metadata as a JSON string.
        details: the counted boxes with scores per class, ``{class: [[x0, y0, x1, y1, score], ...]}``, as a JSON string.
    """

    filename: str
    tag: Tag
    prompt: str
    correct: bool
    reason: str
    metadata: str
    details: str

    @property
    def folder(self) -> str:
        """The prompt's folder: what the results of one prompt share."""
        return self.filename.rsplit("/", 2)[0]


class TaskScore(Frozen):
    """One tag's score: the share of correct images."""

    score: float
    num_images: int
    num_correct: int


class SuiteScore(Frozen):
    """GenEval's summary; ``to_json()`` is what ``softalign geneval score --json`` prints.

    Attributes:
        overall_score: the mean of the task scores (not of the images), over the tags that occur.
        num_prompts_any_correct: prompts with at least one correct image.
        missing: what the set lacks of its suite; empty if it is complete.
        detector: what these scores are called by whose weights detected: ``geneval`` or ``geneval-hf``; empty: recorded
            detections, whose detector is not known.
    """

    overall_score: float
    tags: dict[str, TaskScore]
    num_images: int
    num_prompts_any_correct: int
    missing: tuple[Lack, ...] = ()
    detector: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        return self.model_dump(mode="json")

    def to_text(self) -> str:
        """Return the scores as lines, and what is missing below them."""
        rows = [f"{tag:<14} {task.score:.4f}  {task.num_correct}/{task.num_images}" for tag, task in self.tags.items()]
        rows.append(f"{'overall':<14} {self.overall_score:.4f}  ({self.detector or UNKNOWN_DETECTOR})")
        if self.missing:
            rows += ["", "The set is not complete; these are the scores of what can be scored of it:"]
            rows += [f"  {lack.to_text()}" for lack in self.missing]
        return "\n".join(rows)


def score_image(prompt: GenevalPrompt, filename: str, detections: Sequence[Detection]) -> ImageResult:
    """Return one image's result.

    Raises:
        DataError: a colour is asked for that the detections do not name.
    """
    try:
        decision = decide(prompt, detections)
    except DataError as error:
        raise DataError(
            error.what, expected=error.expected, found=error.found, where=filename, fix=error.fix
        ) from error
    details = {
        name: [[*detection.box, detection.score] for detection in found]
        for name, found in select_objects(detections, prompt.tag).items()
    }
    return ImageResult(
        filename=filename,
        tag=prompt.tag,
        prompt=prompt.prompt,
        correct=decision.is_correct,
        reason=decision.reason,
        metadata=json.dumps(to_metadata(prompt)),
        details=json.dumps(details),
    )


def summarize(results: Sequence[ImageResult]) -> SuiteScore:
    """Return the scores of all images; official tags in their order, others as they first appear.

    Raises:
        DataError: there are no results.
    """
    if not results:
        raise DataError("There are no images to score.", expected="at least one result", found="none")
    tags: dict[str, TaskScore] = {}
    for tag in tags_in_order(result.tag for result in results):
        verdicts = [result.correct for result in results if result.tag == tag]
        num_correct = sum(verdicts)
        tags[tag] = TaskScore(score=num_correct / len(verdicts), num_images=len(verdicts), num_correct=num_correct)
    return SuiteScore(
        overall_score=sum(task.score for task in tags.values()) / len(tags),
        tags=tags,
        num_images=len(results),
        num_prompts_any_correct=len({result.folder for result in results if result.correct}),
    )


def write_results(path: Path, results: Sequence[ImageResult]) -> None:
    """Write ``results.jsonl``, one image a line."""
    path.write_text("".join(json.dumps(result.model_dump()) + "\n" for result in results), encoding="utf-8")


def read_results(path: Path) -> tuple[ImageResult, ...]:
    """Return the results of a ``results.jsonl``.

    Raises:
        DataError: the file is not UTF-8, or a line is not a result; names the line.
    """
    results = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            results.append(ImageResult.model_validate_json(line))
        except ValidationError as error:
            raise DataError(
                "A result cannot be read.", found=problems(error)[0], where=f"{path}, line {number}"
            ) from error
    return tuple(results)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file of JSON lines.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return json_lines(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError("A file of results is not UTF-8 text.", found=str(error), where=str(path)) from error


def score_folders(
    folders: Sequence[PromptFolder], detections: Mapping[str, Sequence[Detection]]
) -> tuple[ImageResult, ...]:
    """Return the result of every image of the folders; all have an entry (an image without objects an empty one)."""
    return tuple(
        score_image(folder.prompt, filename, detections[filename])
        for folder in folders
        for filename in folder.filenames
    )
