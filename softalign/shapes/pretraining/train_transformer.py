"""Training of the MMDiT twin by flow matching, on the pool and with the frozen text encoder of the U-Net.

Shape legend: B images, L = 16 tokens, Z null tokens, D text width, latents (B, 16, 4, 4).
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from softalign.method.forward_process import shifted_sigmas
from softalign.method.text_states import TextStates
from softalign.shapes.pretraining.batch_loss import BatchLoss
from softalign.shapes.pretraining.data import TrainingPool, tokenize
from softalign.shapes.pretraining.networks import LATENT_CHANNELS, LATENT_SIZE, build_flow_scheduler, build_transformer
from softalign.shapes.pretraining.recipe import PretrainConfig, TransformerConfig
from softalign.shapes.pretraining.training_state import ResumableTraining, denoiser_loop


def start_training(
    config: PretrainConfig, digest: str, state_path: Path, start: Path | None = None
) -> ResumableTraining[SD3Transformer2DModel]:
    """Return the transformer's training, fresh or continued from its checkpoint."""
    torch.manual_seed(config.seed + 3)
    transformer = build_transformer(config.transformer, config.text_encoder.width)
    if start is not None:
        transformer.load_state_dict(load_file(start))
    transformer.to(config.device)
    return ResumableTraining(transformer, denoiser_loop(config.transformer, config, digest), state_path)


@torch.no_grad()
def text_states(text_encoder: CLIPTextModelWithProjection, token_ids: Tensor, num_null_tokens: int) -> TextStates:
    """Return states (B, L + Z, 2 D) and pooled states (B, 2 D) of token ids (B, L), as the pipeline makes them.

    Both text slots hold this encoder; the third is empty, so the states of the absent T5 are zeros.
    """
    return TextStates(*_encode(text_encoder, token_ids, num_null_tokens))


def _encode(
    text_encoder: CLIPTextModelWithProjection, token_ids: Tensor, num_null_tokens: int
) -> tuple[Tensor, Tensor]:
    encoded = text_encoder(token_ids, output_hidden_states=True)
    states_BLD = encoded.hidden_states[-2]
    both_BLD = torch.cat([states_BLD, states_BLD], dim=-1)
    null_BZD = both_BLD.new_zeros(len(token_ids), num_null_tokens, both_BLD.shape[-1])
    pooled_BD = encoded.text_embeds
    return torch.cat([both_BLD, null_BZD], dim=1), torch.cat([pooled_BD, pooled_BD], dim=-1)


def flow_loss(
    transformer: SD3Transformer2DModel,
    text_encoder: CLIPTextModelWithProjection,
    pool: TrainingPool,
    tokenizer: CLIPTokenizer,
    config: PretrainConfig,
) -> BatchLoss:
    """Return a step's loss: mean squared error of the flow's velocity, shifted times stratified over the batch.

    A shift of 3 puts six tenths of the times between sigma .55 and .96, where layouts are decided (the band that
    ``train_denoiser.focused`` favours, in these units).
    """
    settings = config.transformer
    batch = settings.batch_size
    empty_ids, device = tokenize(tokenizer, [""])[0], next(transformer.parameters()).device

    def draw(step: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed((config.seed + 2) * 1_000_003 + step)
        index = torch.randint(len(pool.latents), (batch,), generator=generator)
        token_ids = pool.captions_at(index, config.captions, empty_ids, generator)
        times_B = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        sigmas_B = shifted_sigmas(times_B, settings.shift)
        latents = pool.latents[index]
        noise = torch.randn(latents.shape, generator=generator)
        place = int(torch.randint(len(settings.num_null_tokens), (1,), generator=generator))
        with torch.no_grad():
            text = _encode(text_encoder, token_ids.to(device), settings.num_null_tokens[place])
        sigmas = sigmas_B[:, None, None, None]
        noisy, flow = (1 - sigmas) * latents + sigmas * noise, noise - latents
        on_device = (tensor.to(device) for tensor in (noisy, 1000 * sigmas_B, flow))
        return *on_device, *text

    def loss(noisy: Tensor, timesteps_B: Tensor, flow: Tensor, states_BLD: Tensor, pooled_BP: Tensor) -> Tensor:
        model_pred = _predict(transformer, noisy, timesteps_B, TextStates(states_BLD, pooled_BP))
        return nn.functional.mse_loss(model_pred, flow)

    return BatchLoss(draw, loss)


@torch.no_grad()
def sample_flow_latents(
    text_encoder: CLIPTextModelWithProjection,
    transformer: SD3Transformer2DModel,
    token_ids: Tensor,
    empty_ids: Tensor,
    config: TransformerConfig,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Return Euler samples (B, 16, 4, 4) of the captions (B, L) with classifier-free guidance."""
    scheduler = build_flow_scheduler(config)
    device = next(transformer.parameters()).device
    scheduler.set_timesteps(num_inference_steps, device=device)
    num_images = len(token_ids)
    ids = torch.cat([empty_ids.expand(num_images, -1), token_ids]).to(device)
    text = text_states(text_encoder, ids, config.num_null_tokens[0])
    latents = torch.randn(num_images, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator).to(device)
    for timestep in scheduler.timesteps:
        model_pred = _predict(transformer, torch.cat([latents, latents]), timestep.expand(2 * num_images), text)
        unconditional, conditional = model_pred.chunk(2)
        guided = unconditional + guidance_scale * (conditional - unconditional)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
    return latents


def _predict(transformer: SD3Transformer2DModel, noisy: Tensor, timesteps_B: Tensor, text: TextStates) -> Tensor:
    prediction: Tensor = transformer(
        noisy,
        timestep=timesteps_B,
        encoder_hidden_states=text.prompt_embeds_NLD,
        pooled_projections=text.pooled_NP,
        return_dict=False,
    )[0]
    return prediction
