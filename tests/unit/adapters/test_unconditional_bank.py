"""Which tokens each row of a real pipeline's call sees, in every family and for every order of rows."""

import importlib
import inspect

import diffusers
import pytest
import torch

from softalign import load_soft_tokens
from softalign.adapters import row_roles
from softalign.errors import CompatibilityError
from tests.tiny_adapter import NUM_TOKENS as S
from tests.tiny_adapter import write_adapter
from tests.tiny_pipeline import save_tiny_pipeline


def tokens_seen(pipe, guidance_scale, num_images=2, **options):
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
        num_inference_steps=2,
        guidance_scale=guidance_scale,
        **({} if "image" in options else {"height": 32, "width": 32}),
        generator=generator,
        output_type="latent",
        **options,
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


PERTURBED = {
    diffusers.StableDiffusionPipeline: (diffusers.StableDiffusionPAGPipeline, ["down"]),
    diffusers.StableDiffusionXLPipeline: (diffusers.StableDiffusionXLPAGPipeline, ["mid"]),
    diffusers.StableDiffusion3Pipeline: (diffusers.StableDiffusion3PAGPipeline, ["blocks.0"]),
}


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_rows_for_perturbed_attention_come_last_and_see_psi_plus(loaded):
    pipe, folder = loaded
    kind, layers = PERTURBED[type(pipe)]
    denoiser = pipe.transformer if hasattr(pipe, "transformer") else pipe.unet
    denoiser.register_to_config(sample_size=denoiser.config.sample_size or 64)  # the perturbed pipeline compares it
    processors = dict(denoiser.attn_processors)
    perturbed = quiet(kind.from_pipe(pipe, pag_applied_layers=layers))
    with load_soft_tokens(pipe, folder, unconditional_bank="negative"):
        assert tokens_seen(perturbed, 4.0, pag_scale=3.0) == [2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
        assert tokens_seen(perturbed, 1.0, pag_scale=3.0) == [1.0, 1.0, 1.0, 1.0]
        assert tokens_seen(perturbed, 4.0, pag_scale=0.0) == [2.0, 2.0, 1.0, 1.0]
        denoiser.set_attn_processor(processors)
        assert tokens_seen(pipe, 4.0) == [2.0, 2.0, 1.0, 1.0]  # the pipeline itself, on the same denoiser


def test_copies_that_share_a_denoiser_have_their_own_guidance(loaded):
    pipe, folder = loaded
    first, second = quiet(type(pipe).from_pipe(pipe)), quiet(type(pipe).from_pipe(pipe))
    with load_soft_tokens(pipe, folder, unconditional_bank="negative"):
        assert tokens_seen(first, 4.0) == [2.0, 2.0, 1.0, 1.0]
        assert tokens_seen(second, 1.0) == [1.0, 1.0]
        assert tokens_seen(first, 4.0) == [2.0, 2.0, 1.0, 1.0]


def test_instruct_pix2pix_has_its_conditional_rows_first(tmp_path):
    base = diffusers.StableDiffusionPipeline.from_pretrained(save_tiny_pipeline(tmp_path / "base"))
    torch.manual_seed(0)
    unet = type(base.unet).from_config(base.unet.config, in_channels=8)
    pipe = quiet(
        diffusers.StableDiffusionInstructPix2PixPipeline(
            **{**base.components, "unet": unet}, requires_safety_checker=False
        )
    )
    folder = write_adapter(tmp_path / "adapter", "sd15", unet)
    image = torch.rand(1, 3, 32, 32)
    with load_soft_tokens(pipe, folder, unconditional_bank="negative"):
        assert tokens_seen(pipe, 4.0, num_images=1, image=image, image_guidance_scale=1.5) == [1.0, 2.0, 2.0]
        assert tokens_seen(pipe, 1.0, num_images=1, image=image) == [1.0]


def test_a_pipeline_whose_rows_are_not_known_is_refused_when_it_calls(tmp_path):
    class Own(diffusers.StableDiffusionPipeline):
        do_classifier_free_guidance = True

        def __call__(self):
            return self.unet(torch.zeros(2, 4, 4, 4), torch.tensor(3), torch.zeros(2, 5, 32))

    base = diffusers.StableDiffusionPipeline.from_pretrained(save_tiny_pipeline(tmp_path / "base"))
    pipe = Own(**base.components, requires_safety_checker=False)
    with load_soft_tokens(pipe, write_adapter(tmp_path / "adapter", "sd15", pipe.unet), unconditional_bank="negative"):
        with pytest.raises(CompatibilityError, match="which rows") as error:
            pipe()
    assert error.value.found == "Own"


def test_every_pipeline_whose_rows_are_known_is_there_and_says_whether_it_is_guided():
    for name in (*row_roles._GUIDED, *row_roles._PERTURBED, *row_roles._EDITING):
        source = inspect.getsource(importlib.import_module(f"diffusers.pipelines.{name}"))
        assert "do_classifier_free_guidance" in source
        order = "[prompt_embeds, negative_prompt_embeds, negative_prompt_embeds]"
        assert (order if name in row_roles._EDITING else "[negative_prompt_embeds, prompt_embeds]") in source
        assert ("_prepare_perturbed_attention_guidance" in source) == (name in row_roles._PERTURBED)
