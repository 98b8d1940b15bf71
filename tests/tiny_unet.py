"""U-Nets of diffusers' own class, small enough for any test."""

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


SD21 = {"use_linear_projection": True, "upcast_attention": True, "attention_head_dim": (2, 4, 4)}
"""What makes a U-Net one of SD2.1's shape."""


def make_deep_unet(dtype=torch.float32, **changes):
    """Return a U-Net with several blocks of each kind; ``changes`` are fields of its configuration, as ``SD21``."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        **{
            "sample_size": 8,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (8, 16, 16),
            "layers_per_block": 2,
            "cross_attention_dim": WIDTH,
            "attention_head_dim": 4,
            "norm_num_groups": 4,
            **changes,
        }
    )
    return unet.to(dtype).eval().requires_grad_(False)
