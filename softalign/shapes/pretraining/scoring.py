"""Quick scores of an embedded model on the suite: the same decisions as an evaluation, fewer images, no files.

Shape legend: B images of a batch, latents (B, 16, 4, 4), prompt embeddings (B, 16, width).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from softalign.geneval.decision import decide
from softalign.geneval.prompts import TAGS, GenevalPrompt
from softalign.shapes.detector import detect
from softalign.shapes.pretraining.networks import LATENT_CHANNELS, LATENT_SIZE, build_scheduler
from softalign.shapes.pretraining.train_autoencoder import decode_latents
from softalign.shapes.suite import build_suite

_SAMPLE_BATCH = 64


def score_suite(
    vae: AutoencoderKL,
    draw_latents: Callable[[list[str], torch.Generator], Tensor],
    *,
    images_per_tag: int,
    seed: int = 0,
) -> dict[str, float]:
    """Return the share of correct images per tag, over ``images_per_tag`` images spread evenly over its prompts.

    Args:
        vae: decodes the latents.
        draw_latents: samples (B, 16, 4, 4) of B prompts.
        images_per_tag: more than 0.
        seed: of the noise.
    """
    prompts: list[GenevalPrompt] = []
    for tag in TAGS:
        of_tag = [prompt for prompt in build_suite() if prompt.tag == tag]
        prompts += [of_tag[i] for i in np.linspace(0, len(of_tag), images_per_tag, endpoint=False).astype(int)]
    verdicts: dict[str, list[bool]] = {tag: [] for tag in TAGS}
    for start in range(0, len(prompts), _SAMPLE_BATCH):
        batch = prompts[start : start + _SAMPLE_BATCH]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
        latents = draw_latents([prompt.prompt for prompt in batch], generator)
        for prompt, image in zip(batch, decode_latents(vae, latents), strict=True):
            verdicts[prompt.tag].append(decide(prompt, detect(image)).is_correct)
    return {tag: round(float(np.mean(correct)), 4) for tag, correct in verdicts.items() if correct}


@torch.no_grad()
def sample_latents(
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    token_ids: Tensor,
    empty_ids: Tensor,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Return DDIM samples (B, 16, 4, 4) of the captions (B, L) with classifier-free guidance."""
    scheduler = build_scheduler()
    device = next(unet.parameters()).device
    scheduler.set_timesteps(num_inference_steps, device=device)
    num_images = len(token_ids)
    prompt_embeds = text_encoder(torch.cat([empty_ids.expand(num_images, -1), token_ids]).to(device))[0]
    latents = torch.randn(num_images, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator).to(device)
    for timestep in scheduler.timesteps:
        model_pred = unet(torch.cat([latents, latents]), timestep, prompt_embeds, return_dict=False)[0]
        unconditional, conditional = model_pred.chunk(2)
        guided = unconditional + guidance_scale * (conditional - unconditional)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
    return latents
