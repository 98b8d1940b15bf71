"""Denoisers with the true block structure of SD1.5, SDXL and SD3 at a fraction of their width, random weights.

Block types, layers per block, transformer layers per block, relative widths and text lengths are those of the hub's
configs. Head widths: 32 (SD1.5; its own are 40 to 160), 64 (SDXL, SD3, as they are).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn

from softalign.backbones.base import Denoiser
from softalign.backbones.mmdit import MMDiTDenoiser
from softalign.backbones.unet import UNetDenoiser
from softalign.config import MMDiTTokensConfig, SoftTokensConfig, UNetTokensConfig
from softalign.method.forward_process import DDPMProcess, FlowProcess
from softalign.method.soft_tokens import SoftTokens

LATENTS_PX = 32
"""Side of the latents: images of 256 px."""


@dataclass(frozen=True)
class Shape:
    """A denoiser to measure.

    Attributes:
        build: makes the bare diffusers module.
        attach: makes our denoiser of it.
        tokens: what the papers train on this family.
        channels, text_length, text_width: of its inputs; ``pooled_width`` 0: reads no pooled text.
        token_width: of the soft tokens.
    """

    build: Callable[[], nn.Module]
    attach: Callable[[nn.Module, SoftTokens], Denoiser]
    tokens: SoftTokensConfig
    channels: int
    text_length: int
    text_width: int
    pooled_width: int
    token_width: int


def build_sd15() -> nn.Module:
    """Return SD1.5 at a fifth of its width (64, 128, 256, 256)."""
    return UNet2DConditionModel(
        sample_size=LATENTS_PX,
        block_out_channels=(64, 128, 256, 256),
        layers_per_block=2,
        cross_attention_dim=160,
        attention_head_dim=(2, 4, 8, 8),
    )


def build_sdxl() -> nn.Module:
    """Return SDXL at a fifth of its width (64, 128, 256), with 0, 2 and 10 transformer layers per block."""
    return UNet2DConditionModel(
        sample_size=LATENTS_PX,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 256),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=416,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=52,
        projection_class_embeddings_input_dim=256 + 6 * 52,
    )


def build_sd3() -> nn.Module:
    """Return SD3 medium at a sixth of its width (256): 24 joint blocks."""
    return SD3Transformer2DModel(
        sample_size=LATENTS_PX,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=704,
        caption_projection_dim=256,
        pooled_projection_dim=352,
        pos_embed_max_size=96,
    )


def _attach_unet(unet: nn.Module, tokens: SoftTokens) -> Denoiser:
    process = DDPMProcess(DDIMScheduler().alphas_cumprod, "epsilon")
    return UNetDenoiser(unet, ("down", "mid"), tokens, process, 8 * LATENTS_PX)


def _attach_mmdit(transformer: nn.Module, tokens: SoftTokens) -> Denoiser:
    return MMDiTDenoiser(transformer, tokens, FlowProcess(3.0))


UNET_TOKENS, MMDIT_TOKENS = UNetTokensConfig(init="normal"), MMDiTTokensConfig()
SHAPES = {
    "sd15": Shape(build_sd15, _attach_unet, UNET_TOKENS, 4, 77, 160, 0, 160),
    "sdxl": Shape(build_sdxl, _attach_unet, UNET_TOKENS, 4, 77, 416, 256, 416),
    "sd3": Shape(build_sd3, _attach_mmdit, MMDIT_TOKENS, 16, 154, 704, 352, 256),
}


def build_frozen(shape: Shape) -> nn.Module:
    """Return the module with the same random weights at every call."""
    torch.manual_seed(0)
    return shape.build().eval().requires_grad_(False)
