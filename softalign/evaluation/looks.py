"""What the gate's answer is after a round, from the verdicts on the images of each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from softalign.artifacts import Arm
from softalign.config.evaluation import EvalConfig
from softalign.config.registration import PromotionPolicy
from softalign.evaluation.deciding_early import Answer, Differences, gate_answer
from softalign.evaluation.differences import sequential
from softalign.evaluation.intervals import OVERALL, difference_intervals
from softalign.geneval.results import image_number
from softalign.geneval.scoring import RESULTS_FILENAME, ImageResult, read_results

Verdicts = Mapping[Arm, Sequence[ImageResult]]
"""Of each arm that the gate looks at, in the suite's order."""


def verdicts_until(published: Path, num_rounds: int) -> tuple[ImageResult, ...]:
    """Return the verdicts of a published arm on the images of its first rounds."""
    return tuple(one for one in read_results(published / RESULTS_FILENAME) if _number(one) < num_rounds)


def answer_after(verdicts: Verdicts, config: EvalConfig, policy: PromotionPolicy) -> Answer:
    """Return whether promotion is certain, hopeless, or needs another round.

    Args:
        verdicts: on the images of the same rounds.
        config: of the evaluation, stopped after these rounds.
        policy: the gate's.
    """
    references = {arm: results for arm, results in verdicts.items() if arm != "adapter"}
    over: dict[Arm, Differences] = {
        arm: _differences(verdicts["adapter"], results) for arm, results in references.items()
    }
    return answer_of(over, config, policy)


def answer_of(over: Mapping[Arm, Differences], config: EvalConfig, policy: PromotionPolicy) -> Answer:
    """Return the same from the adapter's differences to the other arms, image by image.

    Before the last round promotion is certain only if the gate's own intervals, by bootstrap, say so too: they may be
    wider than those by the variance, and nobody is stopped to be told that it is not enough.
    """
    answer = gate_answer(
        policy,
        over["base"],
        over["untrained"],
        over.get("champion"),
        num_rounds=config.images_per_prompt,
        confidence=config.confidence,
    )
    is_last = config.num_rounds == config.images_per_prompt
    return "open" if answer == "yes" and not is_last and not _is_clear(over, config, policy) else answer


def _is_clear(over: Mapping[Arm, Differences], config: EvalConfig, policy: PromotionPolicy) -> bool:
    """Return whether the gate's intervals are above their thresholds, of those arms whose intervals it looks at."""
    thresholds: dict[Arm, float] = {"champion": -policy.max_drop_below_champion}
    if policy.requires_significant_gain:
        thresholds["base"] = 0.0
        if policy.must_beat_untrained:
            thresholds["untrained"] = 0.0
    return all(_lower_end(over[arm], config) > threshold for arm, threshold in thresholds.items() if arm in over)


def _lower_end(differences: Differences, config: EvalConfig) -> float:
    found = difference_intervals(
        differences, num_bootstrap=config.num_bootstrap, confidence=config.confidence, seed=config.seed
    )
    return sequential(found, config)[OVERALL].low


def _differences(candidate: Sequence[ImageResult], reference: Sequence[ImageResult]) -> Differences:
    """Return by tag a row a prompt, with candidate - reference of each of its images."""
    rows: dict[str, dict[str, list[int]]] = {}
    for mine, theirs in zip(candidate, reference, strict=True):
        rows.setdefault(mine.tag, {}).setdefault(mine.folder, []).append(int(mine.correct) - int(theirs.correct))
    return {tag: np.array(list(prompts.values()), dtype=np.int8) for tag, prompts in rows.items()}


def _number(result: ImageResult) -> int:
    return int(image_number(result.filename))
