"""One update of the soft tokens from one batch.

Shape legend: B images, P prompts, N pairs, L text tokens, D width, C H W latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from softalign.backbones.base import Denoiser
from softalign.config.training import TrainConfig
from softalign.data.encoding.reader import EncodedBatch
from softalign.method.forward_process import NoiseSharing, NoisyBatch, draw_noise
from softalign.method.objective import candidate_mask
from softalign.method.soft_tokens import SoftTokens, update_ema
from softalign.method.text_states import TextStates
from softalign.training.checkpoints import TrainingState
from softalign.training.learning_rate import learning_rate_at
from softalign.training.metrics import TrainRow, train_row
from softalign.training.pair_grid import Division, Pairs, Predict, backward_grid


@dataclass(frozen=True)
class StepInputs:
    """All that a step needs besides its batch."""

    config: TrainConfig
    denoiser: Denoiser
    state: TrainingState
    device: torch.device
    division: Division


def train_step(inputs: StepInputs, batch: EncodedBatch, *, step: int, samples_seen: int) -> TrainRow:
    """Update tokens and average once and return the step's row; a step that is not finite changes neither.

    Args:
        inputs: model, state and settings.
        batch: the images and captions.
        step: updates before this one.
        samples_seen: images before this batch.
    """
    config, state = inputs.config, inputs.state
    noisy = diffuse_batch(inputs, batch, seed=config.seed, samples_seen=samples_seen, sharing=config.noise_sharing)
    mask_BP = candidate_mask(batch.candidates, len(batch.prompts), inputs.device)
    state.optimizer.zero_grad(set_to_none=True)
    with inputs.denoiser.row_cache.one_batch():
        result = backward_grid(
            pair_predictor(inputs, noisy, batch.text.to(inputs.device)),
            state.live,
            state.ema,
            noisy.target_BCHW,
            mask_BP,
            config.objective,
            inputs.division,
        )
    learning_rate = learning_rate_at(config.optimizer, step, config.num_steps)
    grad_norm = _clip_gradients(inputs)
    is_finite = math.isfinite(grad_norm) and math.isfinite(float(result.loss.total))
    if is_finite:
        _update(inputs, learning_rate)
    return train_row(
        result,
        mask_BP,
        noisy.timesteps_B,
        state.live,
        step=step + 1,
        samples_seen=samples_seen + len(batch.keys),
        grad_norm=grad_norm,
        learning_rate=learning_rate,
        is_skipped=not is_finite,
        num_edits=batch.num_edits,
    )


def _clip_gradients(inputs: StepInputs) -> float:
    """Scale the gradients down to ``max_grad_norm`` and return the norm that they had."""
    max_grad_norm = inputs.config.optimizer.max_grad_norm
    parameters = inputs.state.live.parameters()
    return float(torch.nn.utils.clip_grad_norm_(parameters, math.inf if max_grad_norm is None else max_grad_norm))


def _update(inputs: StepInputs, learning_rate: float) -> None:
    state = inputs.state
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.step()
    update_ema(state.ema, state.live, inputs.config.ema_decay)


def pair_predictor(inputs: StepInputs, noisy: NoisyBatch, text: TextStates) -> Predict:
    """Return the denoiser as a function of pairs: each an image's noisy latents with a caption's text states.

    Inside ``denoiser.row_cache.one_batch()`` it computes what pairs share once.
    """
    denoiser, text_length = inputs.denoiser, text.prompt_embeds_NLD.shape[1]

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


def live_predictor(inputs: StepInputs, batch: EncodedBatch) -> Callable[[int], Float[Tensor, "N C H W"]]:
    """Return the live tokens' prediction of ``num_pairs`` pairs of a batch, for measuring its memory."""
    noisy = diffuse_batch(inputs, batch, seed=inputs.config.seed, samples_seen=0, sharing="shared")
    predict = pair_predictor(inputs, noisy, batch.text.to(inputs.device))

    def of(num_pairs: int) -> Tensor:
        same_N = torch.zeros(num_pairs, dtype=torch.int64)
        return predict(Pairs(same_N, same_N, same_N), inputs.state.live)

    return of


def diffuse_batch(
    inputs: StepInputs, batch: EncodedBatch, *, seed: int, samples_seen: int, sharing: NoiseSharing
) -> NoisyBatch:
    """Return a batch with the noise that belongs to its place in the run, on the device."""
    latents_BCHW = batch.latents_BCHW.to(inputs.device, non_blocking=batch.latents_BCHW.is_pinned())
    num_images, channels, height, width = latents_BCHW.shape
    draw = draw_noise(
        (num_images, channels, height, width),
        sharing=sharing,
        seed=seed,
        samples_seen=samples_seen,
    )
    return inputs.denoiser.process.diffuse(latents_BCHW, draw)
