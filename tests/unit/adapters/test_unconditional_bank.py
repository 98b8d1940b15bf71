"""Which tokens each half of a real pipeline's guided call sees, in every family."""

import diffusers
import pytest
import torch

from softalign import load_soft_tokens
from softalign.adapters.base_fingerprint import fingerprint_of
from softalign.adapters.files import AdapterConfig, MMDiTPlacement, UNetPlacement, save_adapter
from softalign.method.soft_tokens import SoftTokens
from tests.tiny_pipeline import save_tiny_pipeline
from tests.tiny_sd3 import save_tiny_sd3
from tests.tiny_sdxl import save_tiny_sdxl

S = 2
FAMILIES = {
    "sd15": (diffusers.StableDiffusionPipeline, save_tiny_pipeline),
    "sdxl": (diffusers.StableDiffusionXLPipeline, save_tiny_sdxl),
    "sd3": (diffusers.StableDiffusion3Pipeline, save_tiny_sd3),
}


@pytest.fixture(params=FAMILIES)
def loaded(request, tmp_path):
    """A pipeline of each family and the folder of an adapter: psi+ is 1 everywhere, psi- is 2, the table 0."""
    kind, save = FAMILIES[request.param]
    pipe = kind.from_pretrained(save(tmp_path / "base"))
    pipe.set_progress_bar_config(disable=True)
    is_joint = request.param == "sd3"
    denoiser = pipe.transformer if is_joint else pipe.unet
    width = denoiser.config.caption_projection_dim if is_joint else denoiser.config.cross_attention_dim
    layers = (1,) if is_joint else ()
    banks = torch.ones(2, *layers, S, width)
    banks[1] = 2.0
    config = AdapterConfig(
        base_model="tiny",
        base_model_revision="",
        family=request.param,
        placement=MMDiTPlacement(num_layers=1, position="append")
        if is_joint
        else UNetPlacement(blocks=("down",), position="after_bos"),
        num_soft_tokens=S,
        num_banks=2,
        width=width,
        timestep_bins=100,
        has_ema=False,
        objective="agsm",
        num_steps=1,
        samples_seen=4,
        dataset_digest="",
        library_version="0",
        weights_sha256="",
        base_fingerprint=fingerprint_of(denoiser),
    )
    save_adapter(tmp_path / "adapter", config, SoftTokens(banks, torch.zeros(100, width)), None)
    return pipe, tmp_path / "adapter"


def tokens_seen(pipe, guidance_scale, num_images=2):
    """Return the value of the tokens in each row of the first call's text, (B,)."""
    is_joint = hasattr(pipe, "transformer")
    site = pipe.transformer.transformer_blocks[0] if is_joint else _first_with_cross_attention(pipe.unet)
    seen = []

    def look(_module, _args, kwargs, _output):
        text = kwargs["encoder_hidden_states"]
        seen.append(text[:, -S:] if is_joint else text[:, 1 : 1 + S])

    hook = site.register_forward_hook(look, with_kwargs=True)
    generator = torch.Generator().manual_seed(0)
    pipe(
        ["a red circle"] * num_images,
        num_inference_steps=1,
        guidance_scale=guidance_scale,
        height=32,
        width=32,
        generator=generator,
        output_type="latent",
    )
    hook.remove()
    assert all((tokens == tokens[:, :1, :1]).all() for tokens in seen)
    return seen[0][:, 0, 0].tolist()


def _first_with_cross_attention(unet):
    return next(block for block in unet.down_blocks if getattr(block, "has_cross_attention", False))


def test_the_unconditional_rows_come_first_and_see_the_asked_bank(loaded):
    pipe, folder = loaded
    with load_soft_tokens(pipe, folder, unconditional_bank="negative"):
        assert tokens_seen(pipe, 4.0) == [2.0, 2.0, 1.0, 1.0]
        assert tokens_seen(pipe, 1.0) == [1.0, 1.0]
        assert tokens_seen(pipe, 4.0, num_images=1) == [2.0, 1.0]
    with load_soft_tokens(pipe, folder):
        assert tokens_seen(pipe, 4.0) == [1.0, 1.0, 1.0, 1.0]
