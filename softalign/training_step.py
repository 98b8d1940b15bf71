"""One update of the soft tokens from one batch, and the judgement of the held-out split.

Shape legend: B images, P prompts, N pairs, L text tokens, D width, C H W latents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from softalign.backbones.base import Denoiser
from softalign.checkpoints import TrainingState
from softalign.config import ObjectiveConfig, OptimizerConfig, TrainConfig
from softalign.diagnostics import TrainRow, ValidationRow, finite_or_none, train_row
from softalign.forward_process import NoisyBatch, draw_noise
from softalign.loader import EncodedBatch
from softalign.objective import candidate_mask, squared_error
from softalign.pair_grid import Pairs, Predict, backward_grid, num_banks, predict_grid
from softalign.soft_tokens import SoftTokens, soft_tokens_from_bos, soft_tokens_from_normal, update_ema
from softalign.text_states import TextStates

VALIDATION_NOISE_SEED = 20260501
"""Noise of the held-out split: the same in every run, so that runs can be compared."""
ONE_BANK = ObjectiveConfig(name="score_matching")
"""An objective that sees every caption through psi+, as inference does."""


@dataclass(frozen=True)
class Stepper:
    """All that a step needs besides its batch."""

    config: TrainConfig
    denoiser: Denoiser
    state: TrainingState
    device: torch.device
    micro_batch_size: int | None


def initial_tokens(config: TrainConfig, bos_D: Tensor, width: int) -> SoftTokens:
    """Return the step-0 tokens of a run: a function of its configuration and the empty prompt's BOS state.

    Args:
        config: shape, start and seed.
        bos_D: the state that ``init: bos`` copies.
        width: of the tokens.
    """
    soft = config.soft_tokens
    generator = torch.Generator().manual_seed(config.seed)
    banks = num_banks(config.objective)
    if soft.init == "bos":
        return soft_tokens_from_bos(
            bos_D,
            num_banks=banks,
            num_soft_tokens=soft.num_soft_tokens,
            num_bins=soft.num_timestep_bins,
            std=soft.init_std,
            generator=generator,
        )
    return soft_tokens_from_normal(
        width,
        num_layers=soft.num_layers,
        num_banks=banks,
        num_soft_tokens=soft.num_soft_tokens,
        num_bins=soft.num_timestep_bins,
        std=soft.init_std,
        generator=generator,
    )


def initial_state(config: TrainConfig, bos_D: Tensor, width: int, device: torch.device) -> TrainingState:
    """Return live tokens, an average that starts as their copy, and a fresh AdamW."""
    live, ema = (initial_tokens(config, bos_D, width).to(device) for _ in range(2))
    ema.requires_grad_(False)
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        live.parameters(),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    return TrainingState(live, ema, optimizer)


def learning_rate(settings: OptimizerConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of the update after ``step`` updates: linear warm-up, then constant or a cosine to 0."""
    if step < settings.num_warmup_steps:
        return settings.learning_rate * (step + 1) / settings.num_warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    share = (step - settings.num_warmup_steps) / max(1, num_steps - settings.num_warmup_steps)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


def train_step(stepper: Stepper, batch: EncodedBatch, *, step: int, samples_seen: int) -> TrainRow:
    """Update tokens and average once and return the step's row; a step that is not finite changes neither.

    Args:
        stepper: model, state and settings.
        batch: the images and captions.
        step: updates before this one.
        samples_seen: images before this batch.
    """
    config, state = stepper.config, stepper.state
    noisy = _diffuse_batch(stepper, batch, seed=config.seed, samples_seen=samples_seen, sharing=config.noise_sharing)
    mask_BP = candidate_mask(batch.candidates, len(batch.prompts), stepper.device)
    lr = learning_rate(config.optimizer, step, config.num_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.zero_grad(set_to_none=True)
    result = backward_grid(
        pair_predictor(stepper, noisy, batch.text.to(stepper.device)),
        state.live,
        state.ema,
        noisy.target_BCHW,
        mask_BP,
        config.objective,
        stepper.micro_batch_size,
    )
    grad_norm = float(torch.nn.utils.clip_grad_norm_(state.live.parameters(), config.optimizer.max_grad_norm))
    is_finite = math.isfinite(grad_norm) and math.isfinite(float(result.loss.total))
    if is_finite:
        state.optimizer.step()
        update_ema(state.ema, state.live, config.ema_decay)
    return train_row(
        result,
        mask_BP,
        noisy.timesteps_B,
        state.live,
        step=step + 1,
        samples_seen=samples_seen + len(batch.keys),
        grad_norm=grad_norm,
        lr=lr,
        is_skipped=not is_finite,
    )


def validate(stepper: Stepper, batches: Iterable[EncodedBatch], *, step: int, samples_seen: int) -> ValidationRow:
    """Return how well the denoiser with the live psi+ ranks the held-out captions, at fixed noise.

    Args:
        stepper: model, state and settings.
        batches: held-out batches, the same in every call.
        step: updates so far.
        samples_seen: training images so far.
    """
    errors, margins, correct, chances = [], [], [], []
    seen = 0
    for batch in batches:
        noisy = _diffuse_batch(stepper, batch, seed=VALIDATION_NOISE_SEED, samples_seen=seen, sharing="per_image")
        seen += len(batch.keys)
        mask_BP = candidate_mask(batch.candidates, len(batch.prompts), stepper.device)
        predict = pair_predictor(stepper, noisy, batch.text.to(stepper.device))
        grid = predict_grid(predict, stepper.state.live, mask_BP, ONE_BANK, stepper.micro_batch_size)
        errors_BP = squared_error(grid, noisy.target_BCHW[:, None])
        own_B = errors_BP.diagonal()
        is_own = torch.eye(*mask_BP.shape, dtype=torch.bool, device=mask_BP.device)
        has_negative_B = mask_BP.sum(dim=1) > 1
        margin_B = (errors_BP.masked_fill(is_own | ~mask_BP, torch.inf).min(dim=1).values - own_B)[has_negative_B]
        errors += own_B.tolist()
        margins += margin_B.tolist()
        correct += (margin_B > 0).tolist()
        chances += (1.0 / mask_BP.sum(dim=1))[has_negative_B].tolist()
    return ValidationRow(
        step=step,
        samples_seen=samples_seen,
        val_accuracy=_mean(correct),
        val_chance=_mean(chances),
        val_loss=finite_or_none(_mean(errors)),
        val_margin=finite_or_none(_mean(margins)),
        num_images=seen,
    )


def pair_predictor(stepper: Stepper, noisy: NoisyBatch, text: TextStates) -> Predict:
    """Return the denoiser as a function of pairs: each an image's noisy latents with a caption's text states."""

    def predict(pairs: Pairs, tokens: SoftTokens) -> Tensor:
        return stepper.denoiser.predict(
            noisy.noisy_latents_BCHW[pairs.images_N],
            noisy.timesteps_B[pairs.images_N],
            text.rows(pairs.prompts_N),
            tokens,
            pairs.banks_N,
        )

    return predict


def _diffuse_batch(stepper: Stepper, batch: EncodedBatch, *, seed: int, samples_seen: int, sharing: str) -> NoisyBatch:
    latents_BCHW = batch.latents_BCHW.to(stepper.device)
    num_images, channels, height, width = latents_BCHW.shape
    draw = draw_noise(
        (num_images, channels, height, width),
        sharing="paper" if sharing == "paper" else "per_image",
        seed=seed,
        samples_seen=samples_seen,
    )
    return stepper.denoiser.process.diffuse(latents_BCHW, draw)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
