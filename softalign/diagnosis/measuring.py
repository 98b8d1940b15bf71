"""All measurements of a subject on some images, level by level.

Shape legend: B images, C H W latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from softalign.diagnosis.attention import AttentionWatch, watched_attentions
from softalign.diagnosis.calls import Level, at_level
from softalign.diagnosis.captions import IMAGES_PER_CALL, caption_errors, match_weight, own_error, rank_accuracies
from softalign.diagnosis.estimates import along, mean_estimate, relative_norms
from softalign.diagnosis.gradients import gradient_norms
from softalign.diagnosis.images import ProbeImage
from softalign.diagnosis.records import (
    Arm,
    AttentionShare,
    Estimate,
    GradientNorm,
    GuidanceLikeness,
    MatchWeight,
    OwnError,
    PredictionChange,
    RankAccuracy,
)
from softalign.diagnosis.subject import Subject
from softalign.method.soft_tokens import NUM_TRAIN_TIMESTEPS
from softalign.method.text_states import TextStates
from softalign.training.validation import BUCKET_WIDTH

LEVELS = tuple(range(BUCKET_WIDTH // 2, NUM_TRAIN_TIMESTEPS, BUCKET_WIDTH))
"""The middles of the noise buckets of training's validation."""


@dataclass
class Measured:
    """What was measured; see ``Diagnosis``."""

    changes: list[PredictionChange] = field(default_factory=list)
    likeness: list[GuidanceLikeness] = field(default_factory=list)
    attention: list[AttentionShare] = field(default_factory=list)
    ranks: list[RankAccuracy] = field(default_factory=list)
    own_errors: list[OwnError] = field(default_factory=list)
    weights: list[MatchWeight] = field(default_factory=list)
    gradients: list[GradientNorm] = field(default_factory=list)


def num_parts(num_images: int, num_levels: int) -> int:
    """Return in how many parts ``measure`` says how far it is."""
    return 2 * math.ceil(num_images / IMAGES_PER_CALL) + num_levels


def measure(
    subject: Subject,
    images: Sequence[ProbeImage],
    *,
    seed: int,
    rows_per_call: int,
    timesteps: Sequence[int] = LEVELS,
    on_part: Callable[[], None] = lambda: None,
) -> Measured:
    """Return all that can be measured of a subject.

    Args:
        subject: the adapter in its denoiser.
        images: at least two.
        seed: of the noise.
        rows_per_call: pairs of one denoiser call.
        timesteps: the noise levels.
        on_part: called after each of ``num_parts`` parts.

    Raises:
        CompatibilityError: the denoiser's attention cannot be watched.
    """
    measured = Measured()
    levels = {at: at_level(subject, images, at, seed, rows_per_call) for at in timesteps}
    own, empty = subject.encode_texts([image.caption for image in images]), subject.encode_texts([""])
    objective = subject.training.objective if subject.training else None
    base = caption_errors(levels, images, own, None, on_part)
    adapter = caption_errors(levels, images, own, subject.tokens["adapter"], on_part)
    for at, level in levels.items():
        _add_changes(measured, at, level, images, own, empty)
        measured.attention += _attention(subject, at, level, own)
        measured.ranks += rank_accuracies(at, base[at], adapter[at])
        measured.own_errors.append(own_error(at, base[at], adapter[at]))
        if objective is not None and objective.name == "agsm":
            weight = match_weight(at, adapter[at], objective, images[0].latents_CHW.numel())
            measured.weights += [] if weight is None else [weight]
        if objective is not None:
            measured.gradients += gradient_norms(subject, images, at, seed, rows_per_call)
        on_part()
    return measured


def _add_changes(
    measured: Measured, at: int, level: Level, images: Sequence[ProbeImage], own: TextStates, empty: TextStates
) -> None:
    """Add how far tokens move the prediction, beside guidance and an edit of the caption, and along guidance."""
    plain = level.predict(own, None)
    direction = plain - level.predict(empty.rows([0] * len(images)), None)
    predicted = {arm: level.predict(own, tokens) for arm, tokens in level.subject.tokens.items()}
    untrained = predicted.get("untrained")
    measured.changes.append(
        PredictionChange(
            timestep=at,
            adapter=mean_estimate(relative_norms(predicted["adapter"] - plain, plain)),
            untrained=None if untrained is None else mean_estimate(relative_norms(untrained - plain, plain)),
            training=None
            if untrained is None
            else mean_estimate(relative_norms(predicted["adapter"] - untrained, untrained)),
            guidance=mean_estimate(relative_norms(direction, plain)),
            edit=_edit_change(level, images, plain),
        )
    )
    for arm, prediction in predicted.items():
        found = along(prediction - plain, direction)
        measured.likeness.append(
            GuidanceLikeness(
                arm=arm,
                timestep=at,
                cosine=mean_estimate(found.cosines_B),
                explained=mean_estimate(found.cosines_B.square()),
                extra_guidance=mean_estimate(found.factors_B),
            )
        )


def _edit_change(level: Level, images: Sequence[ProbeImage], plain: Tensor) -> Estimate | None:
    """Return how far each image's first edit of every kind moves the prediction, together."""
    first = {(place, edit.kind): edit.text for place, image in enumerate(images) for edit in reversed(image.edits)}
    if not first:
        return None
    changes = []
    for place in sorted({place for place, _ in first}):
        texts = [text for (of, _), text in first.items() if of == place]
        rows = torch.full((len(texts),), place)
        edited = level.predict(level.subject.encode_texts(texts), None, rows)
        changes.append(relative_norms(edited - plain[rows], plain[rows]).mean())
    return mean_estimate(torch.stack(changes))


def _attention(subject: Subject, at: int, level: Level, own: TextStates) -> Iterator[AttentionShare]:
    watched = watched_attentions(subject.denoiser.module, subject.placement)
    arms: tuple[Arm, ...] = ("adapter", "untrained")
    for arm in (arm for arm in arms if arm in subject.tokens):
        tokens = subject.tokens[arm]
        found: dict[str, list[Tensor]] = {}
        even: dict[str, float] = {}
        for places in torch.split(torch.arange(len(own)), level.rows_per_call):
            watch = AttentionWatch(watched, tokens.num_soft_tokens)
            with watch.watching():
                level.predict(own.rows(places), tokens, places)
            for block, shares in watch.found.items():
                rows = [torch.stack([one.tokens_B, one.first_position_B, one.text_B]) for one in shares]
                found.setdefault(block, []).append(torch.stack(rows).mean(dim=0))
                even[block] = sum(one.even for one in shares) / len(shares)
        for block, parts in found.items():
            tokens_B, first_B, text_B = torch.cat(parts, dim=1)
            yield AttentionShare(
                arm=arm,
                block=block,
                timestep=at,
                tokens=mean_estimate(tokens_B),
                even=even[block],
                first_position=mean_estimate(first_B),
                text=mean_estimate(text_B),
            )
