"""The networks of the embedded model: the real diffusers and transformers classes, built small.

Shape legend: B images, 16 text tokens, latents (B, 16, 4, 4), images (B, 3, 32, 32) in [-1, 1].
"""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from softalign.shapes.pretraining.recipe import AutoencoderConfig, DenoiserConfig, TextEncoderConfig, TransformerConfig
from softalign.shapes.scenes import IMAGE_SIZE_PX

LATENT_CHANNELS = 16
LATENT_SIZE = 4
_NORM_GROUPS = 8
_HEAD_WIDTH = 32


def build_autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    """Return an AutoencoderKL with one downsampling per level but the last: four levels give 32 px -> 4x4."""
    levels = len(config.block_out_channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.block_out_channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=_NORM_GROUPS,
        sample_size=IMAGE_SIZE_PX,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def build_text_encoder(config: TextEncoderConfig, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return a CLIPTextModel over the word-level vocabulary; padding is the end token, as in Stable Diffusion 1."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            projection_dim=config.width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=max(1, config.width // _HEAD_WIDTH),
            max_position_embeddings=tokenizer.model_max_length,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


def build_denoiser(config: DenoiserConfig, text_width: int) -> UNet2DConditionModel:
    """Return a UNet2DConditionModel with cross attention at every level, in the middle too."""
    levels = len(config.widths)
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        block_out_channels=config.widths,
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=tuple(max(1, width // _HEAD_WIDTH) for width in config.widths),
        norm_num_groups=_NORM_GROUPS,
    )


def build_transformer(config: TransformerConfig, text_width: int) -> SD3Transformer2DModel:
    """Return an SD3Transformer2DModel over the latent's single cells; it reads two text encoders of ``text_width``."""
    return SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=1,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=config.num_layers,
        attention_head_dim=_HEAD_WIDTH,
        num_attention_heads=config.num_heads,
        joint_attention_dim=2 * text_width,
        caption_projection_dim=config.num_heads * _HEAD_WIDTH,
        pooled_projection_dim=2 * text_width,
        pos_embed_max_size=LATENT_SIZE,
    )


def with_projection(text_encoder: CLIPTextModel) -> CLIPTextModelWithProjection:
    """Return the text encoder as Stable Diffusion 3 reads it: states of the layer before the last, and pooled ones.

    A last layer that passes its input on is added, so that the layer before it is the trained encoder's last; the
    projection is the identity, so that the pooled states are the end token's.
    """
    config = CLIPTextConfig(**{**text_encoder.config.to_dict(), "num_hidden_layers": _num_layers(text_encoder) + 1})
    model = CLIPTextModelWithProjection(config)
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    trained = {name.removeprefix("text_model."): tensor for name, tensor in text_encoder.state_dict().items()}
    state.update({f"text_model.{name}": tensor for name, tensor in trained.items()})
    state["text_projection.weight"] = torch.eye(config.hidden_size)
    model.load_state_dict(state)
    model.to(text_encoder.device)
    return model.requires_grad_(False).eval()


def _num_layers(text_encoder: CLIPTextModel) -> int:
    return int(text_encoder.config.num_hidden_layers)


def build_flow_scheduler(config: TransformerConfig) -> FlowMatchEulerDiscreteScheduler:
    """Return the flow-matching scheduler of Stable Diffusion 3."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=config.shift)


def build_scheduler() -> DDIMScheduler:
    """Return a DDIM scheduler with DDPM's linear noise schedule and velocity as the network's target.

    The few objects of a latent stand out (about three deviations), so Stable Diffusion's schedule would leave them
    visible in the noisiest latent; the linear one (arXiv 2006.11239) does not.
    Velocity is well conditioned at every noise level; epsilon with naive weighting learned badly here (measured).
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )
