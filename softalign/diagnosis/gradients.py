"""How hard the objective's parts pull on the tokens, and whether one step pulls as the next."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from softalign.config.training import TrainConfig
from softalign.data.captions.candidates import choose_candidates
from softalign.diagnosis.calls import at_level, predictor
from softalign.diagnosis.estimates import mean_estimate
from softalign.diagnosis.images import ProbeImage
from softalign.diagnosis.records import Arm, GradientNorm
from softalign.diagnosis.subject import Subject
from softalign.method.objective import candidate_mask
from softalign.method.soft_tokens import SoftTokens
from softalign.training.gradient_parts import LossPart, ParameterPart, PartGradient, part_gradients

MAX_STEPS = 8
"""Batches that gradients are averaged over."""


def gradient_norms(
    subject: Subject, images: Sequence[ProbeImage], timestep: int, seed: int, rows_per_call: int
) -> list[GradientNorm]:
    """Return the gradients' norms at one noise level, at the trained tokens and at those of step 0.

    Batches are as training has them: as many images, compared by ``train.negatives``; only their noise is all of one
    level. At the step-0 tokens these are their own average.

    Args:
        subject: its ``training`` is known.
        images: at least two.
        timestep: the level.
        seed: of noise and negatives.
        rows_per_call: pairs of one denoiser call.
    """
    assert subject.training is not None  # noqa: S101  the caller asks for gradients only then
    size = min(subject.training.batch_size, len(images))
    starts = range(0, len(images) - size + 1, size)[:MAX_STEPS]
    norms: list[GradientNorm] = []
    for arm, tokens in subject.tokens.items():
        ema = subject.ema if arm == "adapter" else tokens
        steps = [
            _step(subject, subject.training, images[at : at + size], timestep, (seed, at), tokens, ema, rows_per_call)
            for at in starts
        ]
        norms += _summary(arm, timestep, steps)
    return norms


def _step(
    subject: Subject,
    training: TrainConfig,
    images: Sequence[ProbeImage],
    timestep: int,
    key: tuple[int, int],
    tokens: SoftTokens,
    ema: SoftTokens,
    rows_per_call: int,
) -> tuple[PartGradient, ...]:
    seed, at = key
    edits = [[edit.text for edit in image.edits] for image in images]
    captions = [image.caption for image in images]
    chosen = choose_candidates(captions, edits, training.negatives, np.random.default_rng([seed, at, timestep]))
    prompts = (*captions, *chosen.hard_negatives)
    level = at_level(subject, images, timestep, seed + at, rows_per_call)
    return part_gradients(
        predictor(subject, level.noisy, subject.encode_texts(prompts)),
        tokens,
        ema,
        level.noisy.target_BCHW,
        candidate_mask(chosen.rows, len(prompts), subject.device),
        training.objective,
        rows_per_call,
    )


def _summary(arm: Arm, timestep: int, steps: Sequence[Sequence[PartGradient]]) -> list[GradientNorm]:
    """Return norms and agreement; a part of the tokens that a part of the loss does not see has none."""
    by_part: dict[tuple[LossPart, ParameterPart], list[Tensor]] = defaultdict(list)
    for gradient in (gradient for step in steps for gradient in step):
        by_part[gradient.loss_part, gradient.parameter].append(gradient.values)
    found = []
    for (loss_part, parameter), gradients in by_part.items():
        stacked = torch.stack(gradients)
        norms = stacked.norm(dim=1)
        if not bool(norms.any()):
            continue
        found.append(
            GradientNorm(
                arm=arm,
                loss_part=loss_part,
                parameter=parameter,
                timestep=timestep,
                norm=mean_estimate(norms),
                agreement=float(stacked.mean(dim=0).norm() / norms.mean()),
                chance_agreement=1.0 / math.sqrt(len(gradients)),
            )
        )
    return found
