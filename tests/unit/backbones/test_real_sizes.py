"""The published models' true shapes, on torch's meta device: no weights, but every site, shape and count.

The configurations are those of the models' public ``recipe.json`` files in diffusers layout, each named below; fields
that are left out have the class's default there as well.
"""

from dataclasses import dataclass

import pytest
import torch
from diffusers import DDIMScheduler, SD3Transformer2DModel, UNet2DConditionModel

from softalign.backbones.mmdit import MMDiTDenoiser, joint_blocks, stream_width
from softalign.backbones.unet import UNetDenoiser, injection_sites, text_width
from softalign.method.forward_process import DDPMProcess, FlowProcess
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates

NUM_TOKENS, NUM_BINS, NUM_LAYERS, NUM_BANKS = 4, 100, 5, 2
"""METHOD.md 1: of every family, and the layers of SD3."""
DOWN_OF_FOUR = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
UP_OF_FOUR = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")

# stable-diffusion-v1-5/stable-diffusion-v1-5, unet/config.json
SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": DOWN_OF_FOUR,
    "up_block_types": UP_OF_FOUR,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
# stabilityai/stable-diffusion-2-1, unet/config.json
SD21 = {
    **SD15,
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
    "upcast_attention": True,
}
# stabilityai/stable-diffusion-xl-base-1.0, unet/config.json
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# stabilityai/stable-diffusion-3-medium-diffusers, transformer/config.json
SD3_MEDIUM = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
# stabilityai/stable-diffusion-3.5-medium, transformer/config.json
SD35_MEDIUM = {
    **SD3_MEDIUM,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
# stabilityai/stable-diffusion-3.5-large, transformer/config.json
SD35_LARGE = {
    **SD3_MEDIUM,
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}


@dataclass(frozen=True)
class Expected:
    """What METHOD.md 1 and the model's card say: parameters of one bank, of the table, of the denoiser (millions)."""

    num_sites: int
    width: int
    bank: int
    table: int
    denoiser_millions: int


UNETS = {
    "sd15": (SD15, Expected(4, 768, 3_072, 76_800, 860)),
    "sd21": (SD21, Expected(4, 1024, 4_096, 102_400, 866)),
    "sdxl": (SDXL, Expected(3, 2048, 8_192, 204_800, 2_567)),
}
MMDITS = {
    "sd3 medium": (SD3_MEDIUM, Expected(5, 1536, 30_720, 768_000, 2_028)),
    "sd35 medium": (SD35_MEDIUM, Expected(5, 1536, 30_720, 768_000, 2_243)),
    "sd35 large": (SD35_LARGE, Expected(5, 2432, 48_640, 1_216_000, 8_057)),
}
META = torch.device("meta")


def check_counts(tokens, denoiser, expected):
    assert tokens.banks.numel() == NUM_BANKS * expected.bank
    assert tokens.timestep_offsets.numel() == expected.table
    assert sum(parameter.numel() for parameter in tokens.parameters()) < 2_000_000
    assert round(sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6) == expected.denoiser_millions


def entering_text(modules, run):
    """Return the shapes of the text that enters each module, after our hooks."""
    seen = []
    hooks = [
        module.register_forward_hook(
            lambda _m, _a, kwargs, _o: seen.append(tuple(kwargs["encoder_hidden_states"].shape)), with_kwargs=True
        )
        for module in modules
    ]
    run()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("config", "expected"), UNETS.values(), ids=UNETS)
def test_a_u_net_of_true_size(config, expected):
    with META:
        unet = UNet2DConditionModel(**config).eval().requires_grad_(False)
        width = text_width(unet)
        tokens = SoftTokens(torch.empty(NUM_BANKS, NUM_TOKENS, width), torch.empty(NUM_BINS, width))
        side, pooled = config["sample_size"], torch.empty(2, 1280) if config is SDXL else None
        inputs = torch.empty(2, 4, side, side), torch.zeros(2, dtype=torch.int64)
        banks, text = torch.zeros(2, dtype=torch.int64), TextStates(torch.empty(2, 77, width), pooled)
    sites = injection_sites(unet, ("down", "mid"))
    assert (len(sites), width) == (expected.num_sites, expected.width)
    check_counts(tokens, unet, expected)
    denoiser = UNetDenoiser(
        unet, ("down", "mid"), tokens, DDPMProcess(DDIMScheduler().alphas_cumprod, "epsilon"), 8 * side
    )
    predictions = []
    plain = injection_sites(unet, ("up",))
    seen = entering_text([*sites, *plain], lambda: predictions.append(denoiser.predict(*inputs, text, tokens, banks)))
    denoiser.close()
    assert seen == [(2, 77 + NUM_TOKENS, width)] * len(sites) + [(2, 77, width)] * len(plain)
    assert predictions[0].shape == inputs[0].shape
    assert predictions[0].is_meta


@pytest.mark.parametrize(("config", "expected"), MMDITS.values(), ids=MMDITS)
def test_an_mmdit_of_true_size(config, expected):
    with META:
        transformer = SD3Transformer2DModel(**config).eval().requires_grad_(False)
        width = stream_width(transformer)
        tokens = SoftTokens(
            torch.empty(NUM_BANKS, NUM_LAYERS, NUM_TOKENS, width), torch.empty(NUM_BINS, NUM_LAYERS * width)
        )
        inputs = torch.empty(2, 16, 128, 128), torch.zeros(2)
        banks, text = torch.zeros(2, dtype=torch.int64), TextStates(torch.empty(2, 333, 4096), torch.empty(2, 2048))
    assert (len(joint_blocks(transformer, NUM_LAYERS)), width) == (expected.num_sites, expected.width)
    check_counts(tokens, transformer, expected)
    denoiser = MMDiTDenoiser(transformer, tokens, FlowProcess(3.0))
    predictions = []
    seen = entering_text(
        transformer.transformer_blocks, lambda: predictions.append(denoiser.predict(*inputs, text, tokens, banks))
    )
    denoiser.close()
    others = config["num_layers"] - NUM_LAYERS
    assert seen == [(2, 333 + NUM_TOKENS, width)] * NUM_LAYERS + [(2, 333, width)] * others
    assert predictions[0].shape == inputs[0].shape
    assert predictions[0].is_meta


def test_sd3s_counts_are_those_of_the_paper():
    """61,440 token and 768,000 table parameters (METHOD.md 1)."""
    expected = MMDITS["sd3 medium"][1]
    assert (NUM_BANKS * expected.bank, expected.table) == (61_440, 768_000)
