"""Tokens whose strength guidance divides: what the rows of real pipelines' calls are predicted with."""

import diffusers
import pytest
import torch
from torch.testing import assert_close

from softalign import load_soft_tokens
from softalign.errors import CompatibilityError
from tests.tiny_adapter import write_adapter
from tests.tiny_pipeline import save_tiny_pipeline
from tests.tiny_sd3 import save_tiny_sd3


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def denoiser_of(pipe):
    return pipe.transformer if hasattr(pipe, "transformer") else pipe.unet


def predictions(pipe, guidance_scale, **options):
    """Return what the denoiser predicts in each call of the first step, rows first."""
    seen = []
    hook = denoiser_of(pipe).register_forward_hook(lambda _module, _args, output: seen.append(output[0]))
    try:
        pipe(
            ["a red circle", "a blue square"],
            num_inference_steps=1,
            guidance_scale=guidance_scale,
            height=32,
            width=32,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            **options,
        )
    finally:
        hook.remove()
    return seen


def test_guidance_divides_the_strength_on_the_conditional_rows_alone(loaded):
    pipe, folder = loaded
    with load_soft_tokens(pipe, folder):
        (whole,) = predictions(pipe, 4.0)
    with load_soft_tokens(pipe, folder, 0.25):
        (quarter,) = predictions(pipe, 4.0)
    with load_soft_tokens(pipe, folder, divide_by_guidance=True):
        (divided,) = predictions(pipe, 4.0)
    assert not torch.allclose(whole, quarter, atol=1e-4)
    assert_close(divided[:2], whole[:2], atol=1e-5, rtol=0)
    assert_close(divided[2:], quarter[2:], atol=1e-5, rtol=0)


def test_the_strength_that_is_divided_is_the_handles(loaded):
    pipe, folder = loaded
    with load_soft_tokens(pipe, folder, 0.5) as half:
        (whole,) = predictions(pipe, 2.0)
        half.set_scale(0.25)
        (quarter,) = predictions(pipe, 2.0)
    with load_soft_tokens(pipe, folder, divide_by_guidance=True) as handle:
        handle.set_scale(0.5)
        (divided,) = predictions(pipe, 2.0)
        handle.set_scale(0.0)
        (none,) = predictions(pipe, 2.0)
    assert_close(divided, torch.cat([whole[:2], quarter[2:]]), atol=1e-5, rtol=0)
    assert torch.equal(none, predictions(pipe, 2.0)[0])


def test_without_guidance_nothing_is_divided(loaded):
    pipe, folder = loaded
    with load_soft_tokens(pipe, folder):
        (plain,) = predictions(pipe, 1.0)
    with load_soft_tokens(pipe, folder, divide_by_guidance=True):
        assert_close(predictions(pipe, 1.0)[0], plain, atol=1e-5, rtol=0)


def test_each_copy_is_divided_by_its_own_guidance(loaded):
    pipe, folder = loaded
    copies = [quiet(type(pipe).from_pipe(pipe)) for _ in "ab"]
    with load_soft_tokens(pipe, folder, divide_by_guidance=True):
        divided = [predictions(copy, guidance)[0][2:] for copy, guidance in zip(copies, (2.0, 4.0), strict=True)]
    for found, scale in zip(divided, (0.5, 0.25), strict=True):
        with load_soft_tokens(pipe, folder, scale):
            assert_close(found, predictions(pipe, 4.0)[0][2:], atol=1e-5, rtol=0)


def test_the_call_that_skips_layers_is_as_strong_as_the_conditional_rows(tmp_path):
    pipe = quiet(diffusers.StableDiffusion3Pipeline.from_pretrained(save_tiny_sd3(tmp_path / "base")))
    folder = write_adapter(tmp_path / "adapter", "sd3", pipe.transformer)
    skipping = {
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": -1.0,  # from the first step on: it asks for later ones than this share
        "skip_layer_guidance_stop": 2.0,
    }
    with load_soft_tokens(pipe, folder, 0.25):
        quarter = predictions(pipe, 4.0, **skipping)
    with load_soft_tokens(pipe, folder, divide_by_guidance=True):
        divided = predictions(pipe, 4.0, **skipping)
    assert [len(call) for call in divided] == [4, 2]  # guided, then the conditional rows without the layer
    assert_close(divided[0][2:], quarter[0][2:], atol=1e-5, rtol=0)
    assert_close(divided[1], quarter[1], atol=1e-5, rtol=0)


def test_perturbed_rows_of_a_unet_are_as_strong_as_the_conditional_ones(tmp_path):
    base = diffusers.StableDiffusionPipeline.from_pretrained(save_tiny_pipeline(tmp_path / "base"))
    base.unet.register_to_config(sample_size=base.unet.config.sample_size or 64)
    folder = write_adapter(tmp_path / "adapter", "sd15", base.unet)
    pipe = quiet(diffusers.StableDiffusionPAGPipeline.from_pipe(base, pag_applied_layers=["down"]))
    with load_soft_tokens(pipe, folder, 0.25):
        (quarter,) = predictions(pipe, 4.0, pag_scale=3.0)
    with load_soft_tokens(pipe, folder, divide_by_guidance=True):
        (divided,) = predictions(pipe, 4.0, pag_scale=3.0)
    assert_close(divided[2:], quarter[2:], atol=1e-5, rtol=0)
    assert not torch.allclose(divided[:2], quarter[:2], atol=1e-4)


def test_joint_attention_that_takes_the_rows_apart_is_refused(tmp_path):
    base = diffusers.StableDiffusion3Pipeline.from_pretrained(save_tiny_sd3(tmp_path / "base"))
    folder = write_adapter(tmp_path / "adapter", "sd3", base.transformer)
    pipe = quiet(diffusers.StableDiffusion3PAGPipeline.from_pipe(base, pag_applied_layers=["blocks.0"]))
    with (
        load_soft_tokens(pipe, folder, divide_by_guidance=True),
        pytest.raises(CompatibilityError, match="cannot differ in strength"),
    ):
        predictions(pipe, 4.0, pag_scale=3.0)


def test_a_call_whose_guidance_is_not_known_is_refused(tmp_path):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(save_tiny_pipeline(tmp_path / "base"))
    folder = write_adapter(tmp_path / "adapter", "sd15", pipe.unet)
    with (
        load_soft_tokens(pipe, folder, divide_by_guidance=True),
        pytest.raises(CompatibilityError, match="which rows") as error,
    ):
        pipe.unet(torch.zeros(2, 4, 4, 4), torch.tensor(3), torch.zeros(2, 5, 32))
    assert "divide_by_guidance=False" in str(error.value)
