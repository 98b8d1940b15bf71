"""A tiny base model and an adapter for it, of a U-Net and of an MMDiT."""

from dataclasses import dataclass

import pytest
from diffusers import SD3Transformer2DModel, StableDiffusionPipeline

from tests.tiny_adapter import write_adapter
from tests.tiny_pipeline import save_tiny_pipeline
from tests.tiny_sd3 import save_tiny_sd3
from tests.tiny_sdxl import make_xl_unet, save_tiny_sdxl


@dataclass(frozen=True)
class Tiny:
    """Folders, as text."""

    base: str
    adapter: str


@pytest.fixture(scope="session")
def tiny_unet(tmp_path_factory):
    root = tmp_path_factory.mktemp("unet")
    base = save_tiny_pipeline(root / "tiny-base")
    unet = StableDiffusionPipeline.from_pretrained(base).unet
    unet.register_to_config(sample_size=4)
    unet.save_pretrained(f"{base}/unet")
    return Tiny(base, str(write_adapter(root / "tiny-adapter", "sd15", unet, is_random=True)))


@pytest.fixture(scope="session")
def tiny_xl(tmp_path_factory):
    root = tmp_path_factory.mktemp("xl")
    base = save_tiny_sdxl(root / "tiny-base")
    return Tiny(base, str(write_adapter(root / "tiny-adapter", "sdxl", make_xl_unet(), is_random=True)))


@pytest.fixture(scope="session")
def tiny_mmdit(tmp_path_factory):
    root = tmp_path_factory.mktemp("mmdit")
    base = save_tiny_sd3(root / "tiny-base", has_t5=False)
    transformer = SD3Transformer2DModel.from_pretrained(base, subfolder="transformer")
    return Tiny(base, str(write_adapter(root / "tiny-adapter", "sd3", transformer, is_random=True)))
