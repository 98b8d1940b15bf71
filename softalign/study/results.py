"""What a study came to, as ``study.json`` holds it. Scores and differences are ratios."""

from __future__ import annotations

from typing import Literal

from softalign.artifacts import Frozen
from softalign.study.matrix import PublishedTable

STUDY_FILENAME = "study.json"
PAGE_FILENAME = "study.html"
OVERALL, ADHERENCE, COUNTING = "overall", "adherence", "counting"
Measured = Literal["overall", "adherence", "counting"]
MEASURED: tuple[Measured, ...] = ("overall", "adherence", "counting")
"""What tables and fronts are of: all tags' mean, the adherence's tags' mean, the counting tag."""
Outcome = Literal["shown", "contradicted", "open"]


class ArmScore(Frozen):
    """One arm of a cell at one guidance: where its images lie, and the score of each tag."""

    arm: Literal["base", "untrained", "adapter"]
    guidance_scale: float
    stage_key: str
    digest: str
    overall_score: float
    tags: dict[str, float]


class CellResult(Frozen):
    """One cell, with the digests that it is reused by."""

    recipe: str
    arm: str
    seed: int
    num_steps: int
    samples_seen: int
    scored_on: Literal["selection", "report"]
    train_key: str
    adapter_digest: str
    arms: tuple[ArmScore, ...]


class Choice(Frozen):
    """The length that the selection set chose for an arm, and what that scored there (mean over seeds and guidance)."""

    recipe: str
    arm: str
    num_steps: int
    selection_score: float


class Score(Frozen):
    """What an arm scores on the report set at one guidance, with its interval over seeds and prompts."""

    recipe: str
    arm: str
    num_steps: int
    guidance_scale: float
    denoiser_calls_per_image: int
    measured: Measured
    value: float
    low: float
    high: float
    num_seeds: int


class TagMean(Frozen):
    """The mean score of one tag over an arm's seeds, on the report set at one guidance."""

    recipe: str
    arm: str
    guidance_scale: float
    tag: str
    value: float


class Comparison(Frozen):
    """An arm against a control at one guidance, on the report set.

    Attributes:
        p_adjusted: Holm's, over all comparisons of the study with controls.
        detectable: the smallest true difference that would be found in four cases of five, uncorrected.
    """

    recipe: str
    arm: str
    control: str
    guidance_scale: float
    measured: Measured
    value: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    detectable: float


class Verdict(Frozen):
    """What a hypothesis came to on one recipe.

    Attributes:
        left: the arm that was looked at, and its length, unless ``where`` says it.
        right: the reference that it did worst against, of those that it must hold against.
        p_adjusted: Holm's, over all verdicts of the study.
        detectable: the smallest true value (beyond the threshold) that would be found in four cases of five.
        outcome: shown; contradicted (the interval lies wholly on the other side); else open.
        where: for a front the guidances, for a change the lengths.
    """

    name: str
    statement: str
    recipe: str
    left: str
    right: str
    value: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    detectable: float
    outcome: Outcome
    where: str = ""


class CurvePoint(Frozen):
    """The mean of an arm's seeds on the selection set after so many images of training."""

    recipe: str
    arm: str
    samples_seen: int
    measured: Measured
    value: float
    low: float
    high: float


class StudyResult(Frozen):
    """The whole of it."""

    schema_version: Literal[1] = 1
    name: str
    about: str
    study_digest: str
    library_version: str
    store: str
    suite: str
    confidence: float
    seeds: tuple[int, ...]
    num_prompts: dict[str, int]
    selection_guidance: tuple[float, ...]
    cells: tuple[CellResult, ...]
    choices: tuple[Choice, ...]
    scores: tuple[Score, ...]
    tag_scores: tuple[TagMean, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    curves: tuple[CurvePoint, ...]
    published: tuple[PublishedTable, ...] = ()
