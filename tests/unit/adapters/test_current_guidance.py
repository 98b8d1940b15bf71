"""Guidance that changes while a call runs: each step's share is of the guidance that its code multiplies by."""

import importlib.util
import re
from pathlib import Path

import diffusers
import pytest
import torch

from softalign.adapters import row_roles
from tests.tiny_pipeline import save_tiny_pipeline

MODULES = (*row_roles._GUIDED, *row_roles._PERTURBED, *row_roles._EDITING)
PICTURE = torch.full((1, 3, 32, 32), 0.5)


def shares_per_step(pipe, guidance_after_first_step, **options):
    """Return the conditional row's share in each step of a call that begins with guidance 6."""

    def change(pipe, step, _timestep, kwargs):
        if step == 0:
            pipe._guidance_scale = guidance_after_first_step
        return kwargs

    shares = []

    def note(denoiser, args):
        shares.append(row_roles.shares_of_running_call(denoiser, args[0].shape[0] if args else 2)[-1].item())

    denoiser = pipe.transformer if hasattr(pipe, "transformer") else pipe.unet
    hook = denoiser.register_forward_pre_hook(note)
    try:
        pipe(
            "a red circle",
            num_inference_steps=2,
            guidance_scale=6.0,
            output_type="latent",
            callback_on_step_end=change,
            **options,
        )
    finally:
        hook.remove()
    return shares


def test_the_share_follows_guidance_that_a_callback_changes(loaded):
    pipe, _folder = loaded
    assert shares_per_step(pipe, 2.0, height=32, width=32) == pytest.approx([1 / 6, 1 / 2])


def test_a_pipeline_that_multiplies_by_its_argument_goes_on_with_that(tmp_path):
    base = diffusers.StableDiffusionPipeline.from_pretrained(save_tiny_pipeline(tmp_path / "base"))
    control = diffusers.ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(8, 8, 8, 8))
    parts = {**base.components, "controlnet": control}
    follows = diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    keeps = diffusers.StableDiffusionControlNetImg2ImgPipeline(**parts, requires_safety_checker=False)
    for pipe in (follows, keeps):
        pipe.set_progress_bar_config(disable=True)
    assert shares_per_step(follows, 2.0, image=PICTURE) == pytest.approx([1 / 6, 1 / 2])
    with_pictures = {"image": PICTURE, "control_image": PICTURE, "strength": 1.0}
    assert shares_per_step(keeps, 2.0, **with_pictures) == pytest.approx([1 / 6, 1 / 6])


@pytest.mark.parametrize("module", MODULES)
def test_it_is_known_which_code_multiplies_by_its_argument(module):
    (folder,) = importlib.util.find_spec("diffusers").submodule_search_locations
    code = Path(folder, "pipelines", *module.split(".")).with_suffix(".py").read_text()
    multiplied = set(re.findall(r"\+ ((?:self\.)?guidance_scale) \* \(", code.partition("def __call__")[2]))
    assert multiplied == {"guidance_scale" if module in row_roles._BY_ARGUMENT else "self.guidance_scale"}
