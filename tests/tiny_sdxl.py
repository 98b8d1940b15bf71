"""Stable Diffusion XL with random weights: a U-Net of diffusers' own class, and a whole folder."""

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from softalign.shapes.tokenizer import build_tokenizer

LATENT_CHANNELS, SAMPLE_SIZE = 4, 4
TEXT_LENGTH, CLIP_WIDTH, POOLED_WIDTH = 16, 8, 6
TEXT_WIDTH = 2 * CLIP_WIDTH


def make_xl_unet(seed=0, dtype=torch.float32):
    """Return a frozen U-Net that reads pooled text and six size numbers, without attention at full resolution."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=SAMPLE_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        transformer_layers_per_block=(1, 2),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(2, 4),
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * 4,
    )
    return unet.to(dtype).eval().requires_grad_(False)


def save_tiny_sdxl(folder, *, seed=0):
    """Write a folder in diffusers layout and return its path as text."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=CLIP_WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        projection_dim=POOLED_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=LATENT_CHANNELS,
        scaling_factor=0.5,
    )
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        text_encoder_2=CLIPTextModelWithProjection(clip),
        tokenizer=tokenizer,
        tokenizer_2=build_tokenizer(),
        unet=make_xl_unet(seed),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        add_watermarker=False,
    ).save_pretrained(folder)
    return str(folder)
