"""A diffusers folder with random weights, small enough to build and run in a second: 8x VAE, CLIP text, U-Net."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from softalign.shapes.tokenizer import build_tokenizer

LATENT_CHANNELS, TEXT_LENGTH, TEXT_WIDTH = 4, 16, 32
SCALING_FACTOR, SHIFT_FACTOR = 0.5, 0.125


def save_tiny_pipeline(folder, *, vae_seed=0, text_seed=0):
    """Write the folder and return its path as text; other seeds give other weights."""
    torch.manual_seed(vae_seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=LATENT_CHANNELS,
        scaling_factor=SCALING_FACTOR,
        shift_factor=SHIFT_FACTOR,
    )
    tokenizer = build_tokenizer()
    torch.manual_seed(text_seed)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TEXT_LENGTH,
        )
    )
    unet = UNet2DConditionModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(prediction_type="epsilon", steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return str(folder)
