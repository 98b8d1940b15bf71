"""A small pipeline of each family with an adapter for it."""

import diffusers
import pytest

from tests.tiny_adapter import write_adapter
from tests.tiny_pipeline import save_tiny_pipeline
from tests.tiny_sd3 import save_tiny_sd3
from tests.tiny_sdxl import save_tiny_sdxl

FAMILIES = {
    "sd15": (diffusers.StableDiffusionPipeline, save_tiny_pipeline),
    "sdxl": (diffusers.StableDiffusionXLPipeline, save_tiny_sdxl),
    "sd3": (diffusers.StableDiffusion3Pipeline, save_tiny_sd3),
}


@pytest.fixture(params=FAMILIES)
def loaded(request, tmp_path):
    """A pipeline of each family and the folder of an adapter."""
    kind, save = FAMILIES[request.param]
    pipe = kind.from_pretrained(save(tmp_path / "base"))
    pipe.set_progress_bar_config(disable=True)
    denoiser = pipe.transformer if request.param == "sd3" else pipe.unet
    return pipe, write_adapter(tmp_path / "adapter", request.param, denoiser)
