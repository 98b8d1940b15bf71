"""Soft-TIFA, GenEval 2's score (arXiv 2512.16853): from the probabilities of right answers to scores with intervals.

Of an image: the arithmetic mean over its questions (Soft-TIFA AM, the share of atoms that are right) and the geometric
mean (Soft-TIFA GM, whether all of them are). Of a prompt: the mean over its images (the authors draw one). Of a suite:
the mean over prompts. By skill: the mean over all questions of it; by number of atoms: the means over those prompts.

Shape legend: P prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from softalign.artifacts import Frozen
from softalign.errors import DataError
from softalign.evaluation.intervals import ratio_interval
from softalign.evaluation.verdicts import CONFIDENCE, NUM_BOOTSTRAP, SEED
from softalign.geneval.completeness import Lack

AM, GM = "soft_tifa_am", "soft_tifa_gm"
_ROUNDING = 1e-6
"""How far above 1 a sum of probabilities may lie."""


class Estimate(Frozen):
    """A mean and its interval over prompts."""

    value: float
    ci_low: float
    ci_high: float

    def to_text(self) -> str:
        """Return it for a table."""
        return f"{self.value:.4f}  [{self.ci_low:.4f}, {self.ci_high:.4f}]"


class SkillScore(Frozen):
    """Soft-TIFA AM of one skill's questions, and how many there are in all prompts."""

    soft_tifa_am: Estimate
    num_questions: int


class AtomCountScore(Frozen):
    """Both means of the prompts with one number of atoms."""

    soft_tifa_am: Estimate
    soft_tifa_gm: Estimate
    num_prompts: int


class SoftTifaScore(Frozen):
    """GenEval 2's summary; ratios.

    Attributes:
        skills: by skill.
        atom_counts: by the number of atoms, as text.
        judge: the model that was asked.
        missing: what the set lacks of its suite; empty if it is complete.
    """

    soft_tifa_am: Estimate
    soft_tifa_gm: Estimate
    skills: dict[str, SkillScore]
    atom_counts: dict[str, AtomCountScore]
    num_prompts: int
    num_images: int
    judge: str
    confidence: float = CONFIDENCE
    missing: tuple[Lack, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        return self.model_dump(mode="json")

    def to_text(self) -> str:
        """Return the scores as lines, and what is missing below them."""
        rows = [
            f"{'Soft-TIFA AM':<14} {self.soft_tifa_am.to_text()}",
            f"{'Soft-TIFA GM':<14} {self.soft_tifa_gm.to_text()}",
        ]
        rows += ["", f"{'skill':<14} {'AM':<24}  questions"]
        rows += [f"{name:<14} {one.soft_tifa_am.to_text()}  {one.num_questions}" for name, one in self.skills.items()]
        rows += ["", f"{'atoms':<14} {'AM':<24}  {'GM':<24}  prompts"]
        rows += [
            f"{count:<14} {one.soft_tifa_am.to_text()}  {one.soft_tifa_gm.to_text()}  {one.num_prompts}"
            for count, one in self.atom_counts.items()
        ]
        rows += [
            "",
            f"{self.num_images} images of {self.num_prompts} prompts, {CONFIDENCE:.0%} intervals; judge {self.judge}",
        ]
        if self.missing:
            rows += ["", "The set is not complete; these are the scores of what can be scored of it:"]
            rows += [f"  {lack.to_text()}" for lack in self.missing]
        return "\n".join(rows)


class JudgedImage(Frozen):
    """One line of a judged folder's ``results.jsonl``.

    Attributes:
        skills: of the prompt's questions.
        probabilities: of the right answers, in the questions' order.
        metadata: the prompt's line in the suite.
        key: a digest of what decided the line.
        judge: a digest of the model; empty in lines of earlier versions.
    """

    filename: str
    prompt: str
    atom_count: int
    skills: tuple[str, ...]
    probabilities: Annotated[tuple[Annotated[float, Field(ge=0.0, le=1.0 + _ROUNDING)], ...], Field(min_length=1)]
    soft_tifa_am: float
    soft_tifa_gm: float
    metadata: str
    key: str
    judge: str = ""

    @model_validator(mode="after")
    def _is_of_its_questions(self) -> JudgedImage:
        if len(self.probabilities) != len(self.skills):
            raise ValueError(f"{len(self.probabilities)} probabilities, but {len(self.skills)} skills")
        return self

    @property
    def folder(self) -> str:
        """The prompt's folder: what the images of one prompt share."""
        return self.filename.rsplit("/", 2)[0]


@dataclass(frozen=True)
class JudgedPrompt:
    """One prompt's images, judged.

    Attributes:
        skills: of its questions.
        probabilities: of each image, those of the right answers, in the questions' order.
    """

    atom_count: int
    skills: tuple[str, ...]
    probabilities: tuple[tuple[float, ...], ...]

    @property
    def soft_tifa_am(self) -> float:
        """The mean over its images of their arithmetic means."""
        return float(np.mean([arithmetic_mean(image) for image in self.probabilities]))

    @property
    def soft_tifa_gm(self) -> float:
        """The mean over its images of their geometric means."""
        return float(np.mean([geometric_mean(image) for image in self.probabilities]))

    def of_skill(self, skill: str) -> list[float]:
        """Return the probabilities of one skill's questions, of all images."""
        return [
            probability
            for image in self.probabilities
            for probability, own in zip(image, self.skills, strict=True)
            if own == skill
        ]


def arithmetic_mean(probabilities: Sequence[float]) -> float:
    """Return Soft-TIFA AM of one image."""
    return math.fsum(probabilities) / len(probabilities)


def geometric_mean(probabilities: Sequence[float]) -> float:
    """Return Soft-TIFA GM of one image; 0 where one answer is impossible."""
    if min(probabilities) <= 0.0:
        return 0.0
    return math.exp(math.fsum(math.log(one) for one in probabilities) / len(probabilities))


def summarize_soft_tifa(prompts: Sequence[JudgedPrompt], judge: str, missing: tuple[Lack, ...] = ()) -> SoftTifaScore:
    """Return the scores of judged prompts.

    Raises:
        DataError: there are none.
    """
    if not prompts:
        raise DataError("There are no images to score.", expected="at least one judged image", found="none")
    skills = dict.fromkeys(skill for prompt in prompts for skill in prompt.skills)
    counts = sorted({prompt.atom_count for prompt in prompts})
    return SoftTifaScore(
        soft_tifa_am=_mean(AM, prompts, lambda prompt: prompt.soft_tifa_am),
        soft_tifa_gm=_mean(GM, prompts, lambda prompt: prompt.soft_tifa_gm),
        skills={skill: _skill_score(skill, prompts) for skill in skills},
        atom_counts={
            str(count): _atom_count_score(count, [prompt for prompt in prompts if prompt.atom_count == count])
            for count in counts
        },
        num_prompts=len(prompts),
        num_images=sum(len(prompt.probabilities) for prompt in prompts),
        judge=judge,
        missing=missing,
    )


def by_folder(images: Iterable[JudgedImage]) -> dict[str, list[JudgedImage]]:
    """Return judged images by their prompts' folders, in order."""
    folders: dict[str, list[JudgedImage]] = {}
    for image in images:
        folders.setdefault(image.folder, []).append(image)
    return folders


def judged_prompt(images: Sequence[JudgedImage]) -> JudgedPrompt:
    """Return a prompt of its images."""
    return JudgedPrompt(images[0].atom_count, images[0].skills, tuple(image.probabilities for image in images))


def _skill_score(skill: str, prompts: Sequence[JudgedPrompt]) -> SkillScore:
    values = [own for prompt in prompts if (own := prompt.of_skill(skill))]
    return SkillScore(
        soft_tifa_am=_estimate(f"skill {skill}", [math.fsum(own) for own in values], [len(own) for own in values]),
        num_questions=sum(prompt.skills.count(skill) for prompt in prompts),
    )


def _atom_count_score(count: int, prompts: Sequence[JudgedPrompt]) -> AtomCountScore:
    return AtomCountScore(
        soft_tifa_am=_mean(f"{AM} {count}", prompts, lambda prompt: prompt.soft_tifa_am),
        soft_tifa_gm=_mean(f"{GM} {count}", prompts, lambda prompt: prompt.soft_tifa_gm),
        num_prompts=len(prompts),
    )


def _mean(name: str, prompts: Sequence[JudgedPrompt], value_of: Callable[[JudgedPrompt], float]) -> Estimate:
    return _estimate(name, [value_of(prompt) for prompt in prompts], [1] * len(prompts))


def _estimate(name: str, sums: Sequence[float], weights: Sequence[int]) -> Estimate:
    interval = ratio_interval(
        name, np.array(sums), np.array(weights), num_bootstrap=NUM_BOOTSTRAP, confidence=CONFIDENCE, seed=SEED
    )
    return Estimate(value=interval.value, ci_low=interval.low, ci_high=interval.high)
