"""Editing on a CUDA device in bf16, and on the CPU in every run."""

import numpy as np
import pytest
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from softalign import FlowEditSettings, edit_image
from softalign.backbones.frozen_pipeline import backbone_dtype
from softalign.backbones.loading import load_backbone
from softalign.config import BackboneConfig
from softalign.sampling.image_editing import edited
from tests.tiny_sd3 import save_tiny_sd3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_sd3(tmp_path_factory.mktemp("tiny") / "model")


def test_the_devices_dtype_changes_no_picture_that_nothing_is_asked_of(any_device, model):
    config = BackboneConfig(family="sd3", model=model, resolution_px=32, max_sequence_length=6)
    frozen = load_backbone(config, device=any_device, dtype=backbone_dtype(any_device))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))
    still, same, other = (
        np.asarray(edited(frozen, picture, "a cat", target, FlowEditSettings(3, n_max, 0, 1, 2.0, 2.0), None))
        for target, n_max in (("a cat", 0), ("a cat", 3), ("a dog", 3))
    )
    assert still.shape == (32, 48, 3)
    assert np.array_equal(same, still)
    assert not np.array_equal(other, still)


def test_an_offloaded_pipeline_edits_as_one_on_the_device(any_device, model):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    settings = FlowEditSettings(3, 3, 0, 1, 1.0, 4.0)
    plain, pipe = (StableDiffusion3Pipeline.from_pretrained(model) for _ in range(2))
    plain.to(any_device)
    pipe.enable_model_cpu_offload(device=any_device)
    one, other = (
        np.asarray(edit_image(each, picture, "a cat", "a dog", settings, max_sequence_length=6)).astype(int)
        for each in (plain, pipe)
    )
    assert np.abs(one - other).max() <= 1
