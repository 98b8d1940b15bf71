"""Two judged sets of GenEval 2 in pairs of images, by what a prompt asks and the image's number.

Shape legend: P prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from softalign.artifacts import Frozen
from softalign.errors import DataError, MissingInputError
from softalign.evaluation.intervals import ratio_interval
from softalign.evaluation.soft_tifa import AM, GM, Estimate, JudgedImage, JudgedPrompt, by_folder, judged_prompt
from softalign.evaluation.statistics import NUM_FLIPS, flip_p_value
from softalign.evaluation.verdicts import CONFIDENCE, NUM_BOOTSTRAP, SEED
from softalign.geneval.completeness import Lack, Suite, inspect_verdicts, require_complete
from softalign.geneval.layout import METADATA_FILENAME, PromptFolder, read_folders
from softalign.geneval.prompts import from_json_line
from softalign.geneval.results import image_number
from softalign.geneval.scoring import RESULTS_FILENAME, read_lines
from softalign.problems import problems

Keyed = dict[tuple[object, ...], JudgedImage]
Prompts = Sequence[tuple[JudgedPrompt, JudgedPrompt]]
_FIX = "judge what is missing, or compare what is there with --allow-partial: it prints what is missing"


class PairedEstimate(Frozen):
    """A score of both sets, and B - A with its interval and two-sided p-value."""

    a: float
    b: float
    difference: Estimate
    p_value: float

    def to_text(self, name: str) -> str:
        """Return a row of a table."""
        low, high = self.difference.ci_low, self.difference.ci_high
        cell = f"{self.difference.value:+.4f} [{low:+.4f}, {high:+.4f}]"
        return f"{name:<18}{self.a:>8.4f}{self.b:>8.4f}{cell:>28}  p {self.p_value:.2g}"


class SoftTifaComparison(Frozen):
    """Two judged sets over the images that both have.

    Attributes:
        sources: A and B.
        skills: Soft-TIFA AM by skill; p-values are not corrected for how many there are.
        atom_counts: Soft-TIFA GM by the number of atoms, as text; likewise.
        num_unpaired: images that one has and the other has not; they are left out.
        missing: what A and B lack.
    """

    sources: tuple[str, str]
    soft_tifa_am: PairedEstimate
    soft_tifa_gm: PairedEstimate
    skills: dict[str, PairedEstimate]
    atom_counts: dict[str, PairedEstimate]
    num_prompts: int
    num_images: int
    num_unpaired: int
    missing: tuple[tuple[Lack, ...], ...] = ()
    confidence: float = CONFIDENCE

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return self.model_dump(mode="json")

    def to_text(self) -> str:
        """Return a table, and how many images it is of."""
        lines = [f"{letter}: {source}" for letter, source in zip("AB", self.sources, strict=True)]
        lines += ["", f"{'':<18}{'A':>8}{'B':>8}{'B - A':>28}"]
        lines += [self.soft_tifa_am.to_text("Soft-TIFA AM"), self.soft_tifa_gm.to_text("Soft-TIFA GM")]
        lines += [one.to_text(f"AM, {skill}") for skill, one in self.skills.items()]
        lines += [one.to_text(f"GM, {count} atoms") for count, one in self.atom_counts.items()]
        lines += [
            "",
            f"{self.num_images} pairs of {self.num_prompts} prompts; {CONFIDENCE:.0%} intervals over prompts",
        ]
        if self.num_unpaired:
            lines.append(f"Left out, as not both have them: {self.num_unpaired} images.")
        for letter, lacks in zip("AB", self.missing, strict=False):
            lines += [f"{letter} is not complete:", *(f"  {lack.to_text()}" for lack in lacks)] if lacks else []
        return "\n".join(lines)


def compare_judged(a: Path, b: Path, *, is_partial_allowed: bool = False) -> SoftTifaComparison:
    """Compare two judged folders, or their ``results.jsonl``.

    Raises:
        MissingInputError: one was not judged.
        DataError: results cannot be read, are not whole or of two judges, or one has images that the other has not.
    """
    images = _read(a), _read(b)
    _require_one_judge(images, a, b)
    missing = _lacks(images[0], a), _lacks(images[1], b)
    for lacks, source in zip(missing, (a, b), strict=True):
        require_complete(() if is_partial_allowed else lacks, str(source), _FIX)
    one, other = map(_keyed, images)
    shared = [key for key in one if key in other]
    num_unpaired = len(one.keys() ^ other.keys())
    if not shared or (num_unpaired and not is_partial_allowed):
        raise DataError(
            "The sets do not show the same prompts and images, so they cannot be compared in pairs.",
            expected="the same prompts, with images of the same numbers",
            found=f"{len(shared)} images that both have, {num_unpaired} that one has",
            where=f"{a} and {b}",
            fix="judge the same suite, or compare what both have with --allow-partial, if there is any",
        )
    prompts = _prompts(shared, one, other)
    skills = dict.fromkeys(skill for prompt, _ in prompts for skill in prompt.skills)
    counts = sorted({prompt.atom_count for prompt, _ in prompts})
    return SoftTifaComparison(
        sources=(str(a), str(b)),
        soft_tifa_am=_means(AM, prompts, AM),
        soft_tifa_gm=_means(GM, prompts, GM),
        skills={skill: _skill(skill, prompts) for skill in skills},
        atom_counts={
            str(count): _means(f"{GM} {count}", [pair for pair in prompts if pair[0].atom_count == count], GM)
            for count in counts
        },
        num_prompts=len(prompts),
        num_images=len(shared),
        num_unpaired=num_unpaired,
        missing=missing,
    )


def _read(source: Path) -> list[JudgedImage]:
    path = source / RESULTS_FILENAME if source.is_dir() else source
    if not path.is_file():
        raise MissingInputError(
            "There are no judged images.",
            expected=f"a folder with {RESULTS_FILENAME}, or such a file",
            where=str(source),
            fix="softalign geneval2 score DIR --suite FILE --judge MODEL",
        )
    images: dict[str, JudgedImage] = {}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            image = JudgedImage.model_validate_json(line)
        except ValidationError as error:
            raise DataError(
                "A result of GenEval 2 cannot be read.", found=problems(error)[0], where=f"{path}, line {number}"
            ) from error
        if image.filename in images:
            raise DataError("An image has two results.", found=image.filename, where=f"{path}, line {number}")
        images[image.filename] = image
    return list(images.values())


def _lacks(images: Sequence[JudgedImage], source: Path) -> tuple[Lack, ...]:
    """Return what judged images lack: of those that lie in the folder, or, without them, as their own numbers say."""
    folders = [
        PromptFolder(name, from_json_line(own[0].metadata, str(source)), tuple(image.filename for image in own))
        for name, own in by_folder(images).items()
    ]
    root = source if source.is_dir() else source.parent
    there = read_folders(root) if any(root.glob(f"*/{METADATA_FILENAME}")) else ()
    suite = Suite(tuple(f.prompt for f in there), max(len(f.filenames) for f in there)) if there else None
    return inspect_verdicts(folders, suite)


def _require_one_judge(images: Sequence[Sequence[JudgedImage]], a: Path, b: Path) -> None:
    judges = {image.judge for own in images for image in own if image.judge}
    if len(judges) > 1:
        raise DataError(
            "The sets have answers of different judges: differences would be theirs, not the images'.",
            expected="the same model as the judge of both",
            found=f"{len(judges)} models",
            where=f"{a} and {b}",
            fix="judge both with the same model: softalign geneval2 score DIR --suite FILE --judge MODEL",
        )


def _keyed(images: Sequence[JudgedImage]) -> Keyed:
    """Return images by what makes two a pair; of prompts that ask the same, the first go together."""
    counts: Counter[str] = Counter()
    keyed: Keyed = {}
    for own in by_folder(images).values():
        asked = own[0].metadata
        keyed |= {(asked, counts[asked], image_number(image.filename)): image for image in own}
        counts[asked] += 1
    return keyed


def _prompts(shared: Sequence[tuple[object, ...]], one: Keyed, other: Keyed) -> Prompts:
    folders: dict[tuple[object, ...], list[tuple[object, ...]]] = {}
    for key in shared:
        folders.setdefault(key[:2], []).append(key)
    return [
        (judged_prompt([one[key] for key in keys]), judged_prompt([other[key] for key in keys]))
        for keys in folders.values()
    ]


def _means(name: str, prompts: Prompts, score: str) -> PairedEstimate:
    values = [(getattr(one, score), getattr(other, score)) for one, other in prompts]
    return _paired(name, values, [1] * len(values))


def _skill(skill: str, prompts: Prompts) -> PairedEstimate:
    found = [(one.of_skill(skill), other.of_skill(skill)) for one, other in prompts if skill in one.skills]
    return _paired(f"skill {skill}", [(sum(one), sum(other)) for one, other in found], [len(one) for one, _ in found])


def _paired(name: str, sums: Sequence[tuple[float, float]], weights: Sequence[int]) -> PairedEstimate:
    sums_P2, weights_P = np.array(sums), np.array(weights)
    gains_P = sums_P2[:, 1] - sums_P2[:, 0]
    interval = ratio_interval(name, gains_P, weights_P, num_bootstrap=NUM_BOOTSTRAP, confidence=CONFIDENCE, seed=SEED)
    a, b = sums_P2.sum(axis=0) / weights_P.sum()
    return PairedEstimate(
        a=round(float(a), 6),
        b=round(float(b), 6),
        difference=Estimate(value=interval.value, ci_low=interval.low, ci_high=interval.high),
        p_value=flip_p_value(gains_P / weights_P.sum(), num_flips=NUM_FLIPS, rng=np.random.default_rng(SEED)),
    )
