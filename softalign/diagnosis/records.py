"""What a diagnosis found, as it is written to ``diagnosis.json``.

Noise levels are timesteps, 0 (data) to 1000 (noise). Intervals are 95 %, over images: of means the normal
approximation, of shares of images Wilson's.
"""

from __future__ import annotations

from typing import Final, Literal

from softalign.artifacts import Frozen
from softalign.config.training import EditKind
from softalign.training.gradient_parts import LossPart, ParameterPart

DIAGNOSIS_FILENAME: Final = "diagnosis.json"
PAGE_FILENAME: Final = "diagnosis.html"
Arm = Literal["adapter", "untrained"]
"""Whose tokens: the trained ones, or those of step 0."""


class Estimate(Frozen):
    """A mean over ``number`` images (of gradients: over steps) with its interval."""

    mean: float
    low: float
    high: float
    number: int


class PredictionChange(Frozen):
    """How far the prediction for images with their own captions moves at one noise level, relative to its norm.

    Attributes:
        adapter: with psi+ against without tokens.
        untrained: with the step-0 tokens against without; None where the adapter came without them.
        training: with psi+ against the step-0 tokens: what training itself did; None likewise.
        guidance: the yardstick of guidance: conditional against unconditional, without tokens.
        edit: the yardstick of captions: an edited caption against the own, without tokens.
    """

    timestep: int
    adapter: Estimate
    untrained: Estimate | None
    training: Estimate | None
    guidance: Estimate
    edit: Estimate | None


class GuidanceLikeness(Frozen):
    """How far the change by some tokens is more guidance, at one noise level.

    Attributes:
        cosine: between the change by the tokens and the guidance direction, conditional minus unconditional.
        explained: the share of the change's squared norm that lies along that direction: the squared cosine.
        extra_guidance: the factor of that direction that comes nearest to the change: what one would add to the
            guidance scale.
    """

    arm: Arm
    timestep: int
    cosine: Estimate
    explained: Estimate
    extra_guidance: Estimate


class AttentionShare(Frozen):
    """What the image's queries give to the soft tokens in one block at one noise level, of their weights' sum 1.

    Attributes:
        tokens: the share of the soft tokens.
        even: that share if all keys drew alike: soft tokens / keys.
        first_position: the share of the text's first position (BOS), which draws attention in CLIP's texts.
        text: the share of the whole text, soft tokens included; 1 in cross attention.
    """

    arm: Arm
    block: str
    timestep: int
    tokens: Estimate
    even: float
    first_position: Estimate
    text: Estimate


class RankAccuracy(Frozen):
    """How often the own caption has the smallest error beside edits of one kind, at one noise level.

    Attributes:
        base: without tokens: what the frozen model knows.
        adapter: with psi+ for every caption, as images are drawn.
        chance: the accuracy of guessing: the mean of 1 / (1 + edits).
    """

    kind: EditKind
    timestep: int
    base: Estimate
    adapter: Estimate
    chance: float


class OwnError(Frozen):
    """The error of the own captions' predictions at one noise level: mean squared, per number of the latent.

    Attributes:
        difference: adapter - base, paired: below 0 the images are explained better.
    """

    timestep: int
    base: Estimate
    adapter: Estimate
    difference: Estimate


class MatchWeight(Frozen):
    """The own caption's weight among all its edits at one noise level, by the adapter's objective (agsm alone)."""

    timestep: int
    weight: Estimate
    chance: float
    temperature: float | Literal["calibrated"]
    is_at_chance: bool


class GradientNorm(Frozen):
    """How hard a part of the objective pulls on a part of the tokens, at one noise level.

    Attributes:
        arm: at which tokens.
        norm: of one step's gradient, mean over steps.
        agreement: norm of the mean gradient over the mean norm: 1 where all steps pull alike.
        chance_agreement: what steps in random directions would have: 1 / sqrt(steps).
    """

    arm: Arm
    loss_part: LossPart
    parameter: ParameterPart
    timestep: int
    norm: Estimate
    agreement: float
    chance_agreement: float


class Diagnosis(Frozen):
    """All of it.

    Attributes:
        name: of the adapter, as it was asked for.
        weights_sha256: of the adapter.
        images: where the images came from.
        missing: what could not be measured, and why.
        findings: the numbers in sentences.
    """

    schema_version: Literal[1] = 1
    library_version: str
    name: str
    weights_sha256: str
    base_model: str
    family: str
    objective: str
    device: str
    dtype: str
    seed: int
    images: str
    num_images: int
    changes: tuple[PredictionChange, ...]
    likeness: tuple[GuidanceLikeness, ...]
    attention: tuple[AttentionShare, ...]
    ranks: tuple[RankAccuracy, ...]
    own_errors: tuple[OwnError, ...]
    weights: tuple[MatchWeight, ...]
    gradients: tuple[GradientNorm, ...]
    missing: tuple[str, ...]
    findings: tuple[str, ...] = ()
