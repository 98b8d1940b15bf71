"""Sizes are predicted as the models have them: from a folder's own configuration, or as published."""

import shutil

import pytest
import torch

from softalign.backbones.loading import load_backbone
from softalign.backbones.sizes import model_sizes
from softalign.config import BackboneConfig
from softalign.data.encoding.encoders import FrozenEncoders
from softalign.errors import DataError, MissingInputError
from softalign.shapes import weights_path
from tests.tiny_pipeline import save_tiny_pipeline
from tests.tiny_sd3 import save_tiny_sd3
from tests.tiny_sdxl import save_tiny_sdxl


@pytest.mark.parametrize(
    ("family", "options", "latent", "text", "token_width"),
    [
        ("sd15", {}, 4 * 64 * 64, 77 * 768, 768),
        ("sdxl", {"resolution_px": 1024}, 4 * 128 * 128, 77 * 2048 + 1280, 2048),
        ("sd3", {}, 16 * 64 * 64, (77 + 256) * 4096 + 2048, 1536),
        ("sd35", {}, 16 * 64 * 64, (77 + 256) * 4096 + 2048, 2432),
        (
            "sd35",
            {"model": "stabilityai/stable-diffusion-3.5-medium"},
            16 * 64 * 64,
            (77 + 256) * 4096 + 2048,
            1536,
        ),
        ("sd3", {"has_t5": False, "max_sequence_length": 77}, 16 * 64 * 64, 154 * 4096 + 2048, 1536),
    ],
)
def test_published_models(family, options, latent, text, token_width):
    sizes = model_sizes(BackboneConfig(family=family, **{"model": "owner/name", **options}))
    assert (sizes.latent, sizes.text, sizes.token_width) == (latent, text, token_width)


@pytest.mark.parametrize(
    ("family", "save", "options"),
    [
        ("sd15", save_tiny_pipeline, {}),
        ("sdxl", save_tiny_sdxl, {}),
        ("sd3", save_tiny_sd3, {"has_t5": False, "max_sequence_length": 5}),
    ],
)
def test_a_folders_sizes_are_those_of_its_encodings(tmp_path, family, save, options):
    config = BackboneConfig(family=family, model=save(tmp_path / "model"), resolution_px=32, **options)
    backbone = load_backbone(config, device=torch.device("cpu"), dtype=torch.float32)
    encoders = FrozenEncoders(backbone, 32)
    sizes = model_sizes(config)
    assert sizes.text == sum(tensor[0].numel() for tensor in encoders.text_states_of(["a circle"]).tensors())
    assert sizes.latent == encoders.latents_of([torch.zeros(3, 32, 32)])[0].numel()
    assert sizes.token_width == backbone.token_width


@pytest.mark.parametrize(
    ("text", "error"), [(None, MissingInputError), ("{", DataError), ("[]", DataError), ("{}", DataError)]
)
def test_a_folder_that_is_no_model_is_named(tmp_path, text, error):
    folder = shutil.copytree(weights_path(), tmp_path / "model")
    path = folder / "vae" / "config.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match="model"):
        model_sizes(BackboneConfig(family="sd21", model=str(folder), resolution_px=32))
