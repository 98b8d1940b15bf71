"""A U-Net of diffusers' own class, small enough for any test."""

import torch
from diffusers import UNet2DConditionModel

WIDTH = 8


def make_unet(seed=0, width=WIDTH, dtype=torch.float32):
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return unet.to(dtype).eval().requires_grad_(False)
