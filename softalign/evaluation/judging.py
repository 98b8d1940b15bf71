"""GenEval 2 of a folder: every image's questions are put to the judge, and the answers kept in ``results.jsonl``."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from softalign.backbones.locating import files_fingerprint
from softalign.config.runtime import Runtime
from softalign.errors import DataError
from softalign.evaluation.image_files import load_image
from softalign.evaluation.image_lines import Maker, Measure, complete_lines
from softalign.evaluation.soft_tifa import (
    AM,
    GM,
    JudgedImage,
    SoftTifaScore,
    arithmetic_mean,
    by_folder,
    geometric_mean,
    judged_prompt,
    summarize_soft_tifa,
)
from softalign.geneval.completeness import Suite, inspect_set, require_complete
from softalign.geneval.layout import read_folders
from softalign.geneval.prompts import GenevalPrompt, to_json_line
from softalign.geneval.questions import Questions
from softalign.geneval.scoring import RESULTS_FILENAME

_FIX = "make what is missing, or score what is there with --allow-partial: it prints what is missing"


def judge_folder(
    root: Path,
    suite: Suite,
    judge: str,
    revision: str | None,
    runtime: Runtime,
    batch_size: int,
    *,
    is_partial_allowed: bool = False,
) -> SoftTifaScore:
    """Score a folder in GenEval's layout by Soft-TIFA and write ``results.jsonl`` into it; an image is judged once.

    Args:
        root: ``00000/metadata.jsonl``, ``00000/samples/0000.png``, ...
        suite: GenEval 2's prompts, or others in that form.
        judge: the model: a folder or hub id.
        revision: of a hub id.
        runtime: the device.
        batch_size: questions of an image that share a call.
        is_partial_allowed: score what is there of an incomplete set, and say what is missing.

    Raises:
        MissingInputError: the folder or the model is not there.
        DataError: the suite is no GenEval 2, or the set is not complete.
        CompatibilityError: the model cannot be used.
        ConfigError: the folder has a results file that came from elsewhere.
    """
    for prompt in suite.prompts:
        questions_of(prompt)  # a file of another kind is refused before anything is read
    found = inspect_set(root, read_folders(root), suite)
    if not is_partial_allowed:
        require_complete(found.lacks, str(root), _FIX)
    prompts = {name: folder.prompt for folder in found.folders for name in folder.filenames}
    asked = {name: to_json_line(prompt) for name, prompt in prompts.items()}
    load = partial(_measure, prompts, judge, revision, runtime, batch_size)
    maker = Maker("judge", files_fingerprint(judge, revision), load, "judge")
    lines = complete_lines(root / RESULTS_FILENAME, root, asked, maker)
    images = [JudgedImage.model_validate(row) for row in lines.lines.values()]
    return summarize_soft_tifa([judged_prompt(own) for own in by_folder(images).values()], judge, found.lacks)


def questions_of(prompt: GenevalPrompt) -> Questions:
    """Return what a prompt's images are asked.

    Raises:
        DataError: the prompt is judged by detections.
    """
    if prompt.asked is None:
        raise DataError(
            "This prompt has no questions for a judge.",
            expected='GenEval 2\'s form: "prompt", "atom_count", "vqa_list" and "skills"',
            found=prompt.prompt,
            fix="softalign geneval score, which detects",
        )
    return prompt.asked


def _measure(
    prompts: Mapping[str, GenevalPrompt], judge: str, revision: str | None, runtime: Runtime, batch_size: int
) -> Measure:
    from softalign.backbones.frozen_pipeline import resolve_device
    from softalign.metrics.judge import load_judge

    ask = load_judge(judge, revision, resolve_device(runtime), batch_size)

    def measure(name: str, data: bytes) -> dict[str, Any]:
        prompt = prompts[name]
        asked = questions_of(prompt)
        pairs = [(one.question, one.answer) for one in asked.questions]
        probabilities = ask(load_image(io.BytesIO(data)), pairs)
        return {
            "prompt": prompt.prompt,
            "atom_count": asked.atom_count,
            "skills": [one.skill for one in asked.questions],
            "probabilities": probabilities,
            AM: arithmetic_mean(probabilities),
            GM: geometric_mean(probabilities),
            "metadata": to_json_line(prompt),
        }

    return measure
