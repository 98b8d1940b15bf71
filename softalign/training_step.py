"""One update of the soft tokens from one batch.

Shape legend: B images, P prompts, N pairs, L text tokens, D width, C H W latents.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from softalign.backbones.base import Denoiser
from softalign.checkpoints import TrainingState
from softalign.config.training import TrainConfig
from softalign.data.encoding.reader import EncodedBatch
from softalign.diagnostics import TrainRow, train_row
from softalign.method.forward_process import NoisyBatch, draw_noise
from softalign.method.objective import candidate_mask
from softalign.method.soft_tokens import SoftTokens, soft_tokens_from_bos, soft_tokens_from_normal, update_ema
from softalign.method.text_states import TextStates
from softalign.pair_grid import Division, Pairs, Predict, backward_grid, num_banks
from softalign.schedules import learning_rate


@dataclass(frozen=True)
class Stepper:
    """All that a step needs besides its batch."""

    config: TrainConfig
    denoiser: Denoiser
    state: TrainingState
    device: torch.device
    division: Division


def initial_tokens(config: TrainConfig, bos_D: Float[Tensor, " D"], width: int) -> SoftTokens:
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


def initial_state(config: TrainConfig, start: SoftTokens, device: torch.device) -> TrainingState:
    """Return live tokens and an average that start as copies of ``start``, and a fresh AdamW."""
    live, ema = (copy.deepcopy(start).to(device) for _ in range(2))
    ema.requires_grad_(False)
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        live.parameters(),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    return TrainingState(live, ema, optimizer)


def train_step(stepper: Stepper, batch: EncodedBatch, *, step: int, samples_seen: int) -> TrainRow:
    """Update tokens and average once and return the step's row; a step that is not finite changes neither.

    Args:
        stepper: model, state and settings.
        batch: the images and captions.
        step: updates before this one.
        samples_seen: images before this batch.
    """
    config, state = stepper.config, stepper.state
    noisy = diffuse_batch(stepper, batch, seed=config.seed, samples_seen=samples_seen, sharing=config.noise_sharing)
    mask_BP = candidate_mask(batch.candidates, len(batch.prompts), stepper.device)
    lr = learning_rate(config.optimizer, step, config.num_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.zero_grad(set_to_none=True)
    with stepper.denoiser.row_cache.one_batch():
        result = backward_grid(
            pair_predictor(stepper, noisy, batch.text.to(stepper.device)),
            state.live,
            state.ema,
            noisy.target_BCHW,
            mask_BP,
            config.objective,
            stepper.division,
        )
    max_norm = math.inf if config.optimizer.max_grad_norm is None else config.optimizer.max_grad_norm
    grad_norm = float(torch.nn.utils.clip_grad_norm_(state.live.parameters(), max_norm))
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


def pair_predictor(stepper: Stepper, noisy: NoisyBatch, text: TextStates) -> Predict:
    """Return the denoiser as a function of pairs: each an image's noisy latents with a caption's text states.

    Inside ``denoiser.row_cache.one_batch()`` it computes what pairs share once.
    """
    denoiser, text_length = stepper.denoiser, text.prompt_embeds_NLD.shape[1]

    def predict(pairs: Pairs, tokens: SoftTokens) -> Tensor:
        with denoiser.row_cache.rows(pairs.images_N, pairs.prompts_N, text_length):
            return denoiser.predict(
                noisy.noisy_latents_BCHW[pairs.images_N],
                noisy.timesteps_B[pairs.images_N],
                text.rows(pairs.prompts_N),
                tokens,
                pairs.banks_N,
            )

    return predict


def live_predictor(stepper: Stepper, batch: EncodedBatch) -> Callable[[int], Float[Tensor, "N C H W"]]:
    """Return the live tokens' prediction of so many pairs of a batch, to be measured."""
    noisy = diffuse_batch(stepper, batch, seed=stepper.config.seed, samples_seen=0, sharing="paper")
    predict = pair_predictor(stepper, noisy, batch.text.to(stepper.device))

    def of(num_pairs: int) -> Tensor:
        same_N = torch.zeros(num_pairs, dtype=torch.int64)
        return predict(Pairs(same_N, same_N, same_N), stepper.state.live)

    return of


def diffuse_batch(stepper: Stepper, batch: EncodedBatch, *, seed: int, samples_seen: int, sharing: str) -> NoisyBatch:
    """Return a batch with the noise that belongs to its place in the run, on the device."""
    latents_BCHW = batch.latents_BCHW.to(stepper.device, non_blocking=batch.latents_BCHW.is_pinned())
    num_images, channels, height, width = latents_BCHW.shape
    draw = draw_noise(
        (num_images, channels, height, width),
        sharing="paper" if sharing == "paper" else "per_image",
        seed=seed,
        samples_seen=samples_seen,
    )
    return stepper.denoiser.process.diffuse(latents_BCHW, draw)
