"""What the page shows side by side: the arms of a recipe or sets of images, and the pairs among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from softalign.artifacts import EvalReport, TagDifference, TaskStatistics
from softalign.artifacts.paired import DEFAULT_CONFIDENCE, Standing, standing
from softalign.config.families import judge_of
from softalign.evaluation.intervals import OVERALL, Interval

ARM_LABELS = {
    "base": "base model",
    "untrained": "untrained tokens",
    "champion": "champion",
    "adapter": "adapter",
}
ARM_NAMES = {**ARM_LABELS, "base": "base", "untrained": "untrained"}
"""How an arm is called within a sentence of a few words."""
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


@dataclass(frozen=True)
class Column:
    """One arm or set.

    Attributes:
        kind: its class in the page's style: an arm, or ``set-a``, ``set-b``, ``set-c``.
        label: at the head of tables.
        name: within sentences.
        judge: what its scores are called by who judged the images (``judge_of``).
        overall: the mean of the task scores.
        tags: the task scores, in the suite's order.
        is_partial: they are of what could be scored of an incomplete set.
    """

    kind: str
    label: str
    name: str
    judge: str
    overall: Interval
    tags: Mapping[str, Interval]
    num_prompts_any_correct: int
    is_partial: bool = False

    @classmethod
    def of_report(cls, report: EvalReport) -> Column:
        """Return an arm's column."""
        return cls(
            kind=report.arm,
            label=ARM_LABELS[report.arm],
            name=ARM_NAMES[report.arm],
            judge=judge_of(report.suite, report.detector),
            overall=Interval(report.overall_score, report.overall_ci_low, report.overall_ci_high),
            tags={tag.tag: Interval(tag.score, tag.ci_low, tag.ci_high) for tag in report.tags},
            num_prompts_any_correct=report.num_prompts_any_correct,
        )

    @property
    def rows(self) -> dict[str, Interval]:
        """The task scores, and their mean last."""
        return {**self.tags, OVERALL: self.overall}


@dataclass(frozen=True)
class Pair:
    """Two columns, by their numbers, and what their images show in pairs; ``statistics`` may be empty.

    Attributes:
        confidence: of the intervals.
    """

    candidate: int
    reference: int
    title: str
    differences: tuple[TagDifference, ...]
    statistics: tuple[TaskStatistics, ...]
    confidence: float = DEFAULT_CONFIDENCE

    def shown(self, tag: str) -> TaskStatistics | None:
        """Return what is shown beside a difference; None: nothing is."""
        return next((one for one in self.statistics if one.tag == tag), None)

    def standing(self, entry: TagDifference) -> Standing:
        """Return what one of its differences says."""
        shown = self.shown(entry.tag)
        return standing(entry, None if shown is None else shown.shown_p, self.confidence)

    @property
    def overall(self) -> TagDifference:
        """The overall difference."""
        return next(entry for entry in self.differences if entry.tag == OVERALL)
