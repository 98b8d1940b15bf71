"""Stable Diffusion 3 and 3.5 with random weights: transformers of diffusers' own class, and whole folders."""

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from softalign.shapes.tokenizer import build_tokenizer

LATENT_CHANNELS, SAMPLE_SIZE, NUM_BLOCKS = 4, 4, 3
TEXT_LENGTH, CLIP_WIDTH, PROJECTION, JOINT_WIDTH, STREAM_WIDTH = 16, 8, 6, 24, 16
POOLED_WIDTH = 2 * PROJECTION
SD35 = {"dual_attention_layers": (0,), "qk_norm": "rms_norm"}
"""What makes a transformer one of SD3.5 medium's shape."""


def make_transformer(seed=0, dtype=torch.float32, width=STREAM_WIDTH, num_layers=NUM_BLOCKS, **changes):
    """Return a frozen transformer; ``changes`` are fields of its configuration, such as ``SD35``."""
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        **{
            "sample_size": SAMPLE_SIZE,
            "patch_size": 2,
            "in_channels": LATENT_CHANNELS,
            "out_channels": LATENT_CHANNELS,
            "num_layers": num_layers,
            "attention_head_dim": width // 2,
            "num_attention_heads": 2,
            "joint_attention_dim": JOINT_WIDTH,
            "caption_projection_dim": width,
            "pooled_projection_dim": POOLED_WIDTH,
            "pos_embed_max_size": 8,
            **changes,
        }
    )
    return transformer.to(dtype).eval().requires_grad_(False)


def save_tiny_sd3(folder, *, has_t5=True, seed=0, **changes):
    """Write a folder in diffusers layout and return its path as text; ``changes`` go to the transformer."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    clip = {
        "vocab_size": len(tokenizer),
        "hidden_size": CLIP_WIDTH,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": TEXT_LENGTH,
        "projection_dim": PROJECTION,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    encoders = [CLIPTextModelWithProjection(CLIPTextConfig(**clip)) for _ in range(2)]
    t5 = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=JOINT_WIDTH, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    )
    StableDiffusion3Pipeline(
        transformer=make_transformer(seed=seed, **changes),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_make_vae(),
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=build_tokenizer(),
        text_encoder_3=t5 if has_t5 else None,
        tokenizer_3=build_tokenizer() if has_t5 else None,
    ).save_pretrained(folder)
    return str(folder)


def _make_vae():
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=LATENT_CHANNELS,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
