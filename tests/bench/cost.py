"""``python -m tests.bench.cost``: what training and evaluation cost at the published models' sizes, counted not timed.

The denoisers are built on PyTorch's meta device, without weights, and the operations of one call are counted. Hours are
an estimate: operations divided by an assumed share of a card's published peak. Nothing here was timed on such a card.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from softalign.artifacts import Family
from softalign.config.families import FAMILIES

CARD, PEAK_FLOPS, ASSUMED_SHARE = "A100 (312 TFLOP/s in bfloat16)", 312e12, 0.4
TRAIN_PX, VAE_FACTOR = 512, 8
PAIRS_PER_STEP, STEPS = 16, 1000
CALLS_PER_PAIR = 3
"""With live tokens, with averaged ones, and a backward pass that costs about a call, since weights are frozen."""
IMAGES_PER_ARM, ARMS, CALLS_PER_STEP = 553 * 4, 3, 2
"""GenEval's set, four images a prompt; with guidance the denoiser is called twice a step."""


@dataclass(frozen=True)
class Published:
    """A published denoiser: how it is built, and the sizes of its inputs."""

    build: Callable[[], nn.Module]
    channels: int
    text_length: int
    text_width: int
    pooled_width: int


def build_sd15() -> nn.Module:
    """Return Stable Diffusion 1.5's U-Net."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)


def build_sdxl() -> nn.Module:
    """Return Stable Diffusion XL's U-Net."""
    return UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def build_sd3() -> nn.Module:
    """Return Stable Diffusion 3 medium's MMDiT."""
    return SD3Transformer2DModel(
        sample_size=128,
        in_channels=16,
        out_channels=16,
        num_layers=24,
        num_attention_heads=24,
        attention_head_dim=64,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=192,
    )


MODELS: dict[Family, Published] = {
    "sd15": Published(build_sd15, 4, 77, 768, 0),
    "sdxl": Published(build_sdxl, 4, 77, 2048, 1280),
    "sd3": Published(build_sd3, 16, 333, 4096, 2048),
}


def call_flops(model: nn.Module, published: Published, image_px: int) -> int:
    """Return the floating-point operations of one call for one image."""
    side = image_px // VAE_FACTOR
    latents = torch.empty(1, published.channels, side, side, device="meta")
    text = torch.empty(1, published.text_length, published.text_width, device="meta")
    timestep = torch.empty(1, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        if isinstance(model, SD3Transformer2DModel):
            pooled = torch.empty(1, published.pooled_width, device="meta")
            model(latents, encoder_hidden_states=text, pooled_projections=pooled, timestep=timestep)
        else:
            pooled = torch.empty(1, published.pooled_width, device="meta")
            sizes = torch.empty(1, 6, device="meta")
            added = {"text_embeds": pooled, "time_ids": sizes} if published.pooled_width else None
            model(latents, timestep, encoder_hidden_states=text, added_cond_kwargs=added)
    return counter.get_total_flops()


def hours(flops: float) -> float:
    """Return how long so many operations take at the assumed share of the card's peak."""
    return flops / (PEAK_FLOPS * ASSUMED_SHARE) / 3600


def main() -> None:
    """Print a row a family."""
    print(f"estimates at {ASSUMED_SHARE:.0%} of an {CARD}; operations and sizes are counted")
    print(
        f"train: {STEPS:,} steps of {PAIRS_PER_STEP} pairs at {TRAIN_PX} px; evaluate: {IMAGES_PER_ARM:,} images an arm"
    )
    print("family  parameters  in bfloat16  call at 512 px  call at its size  train    evaluate")
    for family, published in MODELS.items():
        with torch.device("meta"):
            model = published.build().eval()
        size = sum(parameter.numel() for parameter in model.parameters())
        defaults = FAMILIES[family].defaults
        small, own = (call_flops(model, published, px) for px in (TRAIN_PX, defaults["evaluate.resolution_px"]))
        train = hours(STEPS * PAIRS_PER_STEP * CALLS_PER_PAIR * small)
        evaluate = hours(ARMS * IMAGES_PER_ARM * defaults["evaluate.num_inference_steps"] * CALLS_PER_STEP * own)
        print(
            f"{family:<7} {size / 1e6:8,.0f} M {size * 2 / 1e9:9.1f} GB {small / 1e12:10.2f} TFLOP "
            f"{own / 1e12:11.2f} TFLOP {train:6.2f} h {evaluate:9.1f} h"
        )


if __name__ == "__main__":
    main()
