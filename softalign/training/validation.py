"""The judgement of the held-out split, at the same noise in every run, so that runs can be compared.

Shape legend: B images, P prompts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float64, Real
from torch import Tensor

from softalign.config.objective import ObjectiveConfig, ScoreMatchingConfig
from softalign.data.encoding.reader import EncodedBatch
from softalign.method.objective import candidate_mask, plackett_luce_weights, squared_error, temperature_of
from softalign.method.soft_tokens import NUM_TRAIN_TIMESTEPS
from softalign.training.metrics import ValidationRow, finite_or_none, token_norms
from softalign.training.pair_grid import predict_grid
from softalign.training.step import StepInputs, diffuse_batch, pair_predictor

VALIDATION_NOISE_SEED = 20260501
ONE_BANK = ScoreMatchingConfig()
"""An objective that sees every caption through psi+, as inference does."""
BUCKET_WIDTH = 200
"""Timesteps per noise bucket: five of them."""


@dataclass(frozen=True)
class Judgement:
    """What the denoiser says about images whose own caption stands among ``num_candidates_B`` captions, float64.

    Attributes:
        own_errors_B: error of the own caption.
        margins_B: best negative's error minus the own; infinite without a negative.
        weights_B: the own caption's Plackett-Luce weight; NaN where the objective has none.
        timesteps_B: where in the noise this was asked.
    """

    own_errors_B: Float64[Tensor, " B"]
    margins_B: Float64[Tensor, " B"]
    weights_B: Float64[Tensor, " B"]
    num_candidates_B: Float64[Tensor, " B"]
    timesteps_B: Real[Tensor, " B"]


def validate(inputs: StepInputs, batches: Iterable[EncodedBatch], *, step: int, samples_seen: int) -> ValidationRow:
    """Return how well the denoiser with the live psi+ ranks the held-out captions, at fixed noise.

    Args:
        inputs: model, state and settings.
        batches: held-out batches, the same in every call.
        step: updates so far.
        samples_seen: training images so far.
    """
    judgements: list[Judgement] = []
    seen = 0
    for batch in batches:
        judgements.append(judge(inputs, batch, samples_seen=seen))
        seen += len(batch.keys)
    own_errors_B = torch.cat([judgement.own_errors_B for judgement in judgements])
    margins_B = torch.cat([judgement.margins_B for judgement in judgements])
    weights_B = torch.cat([judgement.weights_B for judgement in judgements])
    chances_B = 1.0 / torch.cat([judgement.num_candidates_B for judgement in judgements])
    timesteps_B = torch.cat([judgement.timesteps_B for judgement in judgements])
    has_negative_B = chances_B < 1.0
    ratios_B = (weights_B / chances_B)[has_negative_B]
    return ValidationRow(
        step=step,
        samples_seen=samples_seen,
        val_accuracy=_mean((margins_B > 0).double()[has_negative_B]),
        val_chance=_mean(chances_B[has_negative_B]),
        val_loss=finite_or_none(_mean(own_errors_B)),
        val_margin=finite_or_none(_mean(margins_B[has_negative_B])),
        val_match_weight=finite_or_none(_mean(weights_B[has_negative_B])),
        **_by_noise(ratios_B, timesteps_B[has_negative_B]),
        **asdict(token_norms(inputs.state.live)),
        num_images=seen,
    )


def judge(inputs: StepInputs, batch: EncodedBatch, *, samples_seen: int) -> Judgement:
    """Return the judgement of one held-out batch that follows ``samples_seen`` others."""
    objective = inputs.config.objective
    noisy = diffuse_batch(inputs, batch, seed=VALIDATION_NOISE_SEED, samples_seen=samples_seen, sharing="per_image")
    mask_BP = candidate_mask(batch.candidates, len(batch.prompts), inputs.device)
    predict = pair_predictor(inputs, noisy, batch.text.to(inputs.device))
    with inputs.denoiser.row_cache.one_batch():
        grid = predict_grid(predict, inputs.state.live, mask_BP, ONE_BANK, inputs.division)
    errors_BP = squared_error(grid, noisy.target_BCHW[:, None]).double()
    return judgement_of(errors_BP, mask_BP, noisy.timesteps_B, objective, noisy.target_BCHW[0].numel())


def judgement_of(
    errors_BP: Float64[Tensor, "B P"],
    mask_BP: Bool[Tensor, "B P"],
    timesteps_B: Real[Tensor, " B"],
    objective: ObjectiveConfig | None,
    num_values: int,
) -> Judgement:
    """Return what the errors of a grid say about its images; the first B captions are the images' own.

    Args:
        errors_BP: mean squared errors; those of masked pairs are not used.
        mask_BP: which pairs exist.
        timesteps_B: where in the noise they were asked.
        objective: says how an image's captions weigh; None, or one without weights: they are NaN.
        num_values: numbers of one latent, for rewards that are sums.
    """
    is_own = torch.eye(*mask_BP.shape, dtype=torch.bool, device=mask_BP.device)
    best_other_B = errors_BP.masked_fill(is_own | ~mask_BP, torch.inf).min(dim=1).values
    weights_B = torch.full_like(best_other_B, torch.nan)
    if objective is not None and objective.name == "agsm":
        factor = num_values if objective.reward_reduction == "sum" else 1
        rewards_BP = -factor * errors_BP
        temperature = temperature_of(rewards_BP, mask_BP, objective)
        weights_B = plackett_luce_weights(rewards_BP, mask_BP, temperature).diagonal()
    return Judgement(
        own_errors_B=errors_BP.diagonal().cpu(),
        margins_B=(best_other_B - errors_BP.diagonal()).cpu(),
        weights_B=weights_B.cpu(),
        num_candidates_B=mask_BP.sum(dim=1).double().cpu(),
        timesteps_B=timesteps_B.cpu(),
    )


def _by_noise(ratios_B: Tensor, timesteps_B: Tensor) -> dict[str, float | None]:
    fields: dict[str, float | None] = {}
    for low in range(0, NUM_TRAIN_TIMESTEPS, BUCKET_WIDTH):
        high = low + BUCKET_WIDTH
        is_last = high == NUM_TRAIN_TIMESTEPS  # flow matching reaches 1000 itself
        chosen_B = (timesteps_B >= low) & ((timesteps_B < high) | is_last)
        mean = finite_or_none(_mean(ratios_B[chosen_B])) if bool(chosen_B.any()) else None
        fields[f"val_weight_over_chance_{low}_{high}"] = mean
    return fields


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else 0.0
