"""The VAE computes in float32 whatever the denoiser's dtype is, may be replaced, and is given as much as fits."""

import shutil

import numpy as np
import pytest
import torch

from softalign.backbones import vae as frozen_vae
from softalign.backbones.loading import load_backbone
from softalign.backbones.locating import model_fingerprint
from softalign.backbones.vae import decode_latents, rows_per_call
from softalign.config import BackboneConfig, Runtime, TrainConfig, UNetTokensConfig
from softalign.data.encoding.encode import encode
from softalign.data.encoding.encoders import FrozenEncoders
from softalign.errors import CompatibilityError, MissingInputError
from softalign.sampling.sampling import ImageRequest, SamplingSettings, generate_batch
from softalign.store.store import Store
from softalign.training.train import train
from tests.tiny_pipeline import save_tiny_pipeline
from tests.tiny_sd3 import save_tiny_sd3
from tests.tiny_sdxl import save_tiny_sdxl
from tests.unit.data.encoding.test_encode import captions_of, make_dataset

CPU = torch.device("cpu")
SETTINGS = SamplingSettings(num_inference_steps=1, guidance_scale=2.0, resolution_px=32)
SAVE = {"sd15": save_tiny_pipeline, "sdxl": save_tiny_sdxl, "sd3": save_tiny_sd3}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: save(root / family) for family, save in SAVE.items()}


def config_of(models, family, **changes):
    return BackboneConfig(family=family, model=models[family], resolution_px=32, **changes)


@pytest.fixture
def spied(monkeypatch):
    """Return what a VAE decodes: shapes and dtypes."""
    seen = []

    def spy(vae):
        decode = vae.decode

        def recording(latents, **options):
            seen.append((tuple(latents.shape), latents.dtype))
            return decode(latents, **options)

        monkeypatch.setattr(vae, "decode", recording)
        return seen

    return spy


@pytest.mark.parametrize("family", SAVE)
def test_the_vae_stays_in_float32_beside_a_half_precision_denoiser(models, family, spied):
    backbone = load_backbone(config_of(models, family), device=CPU, dtype=torch.bfloat16)
    assert backbone.denoiser.dtype == backbone.text_encoders[0].dtype == torch.bfloat16
    seen = spied(backbone.pipeline.vae)
    images = decode_latents(backbone, torch.zeros(2, 4, 4, 4, dtype=torch.bfloat16))
    assert seen == [((2, 4, 4, 4), torch.float32)]
    assert (images.shape, images.dtype) == ((2, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("family", SAVE)
def test_images_are_decoded_in_float32_whatever_the_denoisers_dtype(models, family, tmp_path, spied):
    """Float64 stands for another dtype than the VAE's: half precision is not for CPUs."""
    backbone = load_backbone(config_of(models, family), device=CPU, dtype=torch.float64)
    backbone.use_papers_sampler()
    seen = spied(backbone.pipeline.vae)
    request = ImageRequest("a circle", 0, 0, tmp_path)
    (image,) = generate_batch(backbone, [request], SETTINGS)
    assert seen == [((1, 4, 4, 4), torch.float32)]
    single = load_backbone(config_of(models, family), device=CPU, dtype=torch.float32)
    single.use_papers_sampler()
    (expected,) = generate_batch(single, [request], SETTINGS)
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_a_call_has_as_many_pixels_at_every_resolution(models, spied, monkeypatch):
    assert [rows_per_call(side) for side in (256, 512, 1024, 4096)] == [64, 16, 4, 1]
    backbone = load_backbone(config_of(models, "sd15"), device=CPU, dtype=torch.float32)
    latents, pixels = torch.randn(5, 4, 4, 4), [torch.rand(3, 32, 32) * 2 - 1 for _ in range(5)]
    images, encoded = decode_latents(backbone, latents), FrozenEncoders(backbone, 32).latents_of(pixels)
    monkeypatch.setattr(frozen_vae, "MAX_PIXELS_PER_CALL", 2 * 32 * 32)
    seen = spied(backbone.pipeline.vae)
    assert np.abs(decode_latents(backbone, latents).astype(int) - images).max() <= 1
    assert [shape[0] for shape, _ in seen] == [2, 2, 1]
    torch.testing.assert_close(FrozenEncoders(backbone, 32).latents_of(pixels), encoded)


def test_another_vae_takes_the_place_of_the_models_own(models, tmp_path):
    other = shutil.copytree(f"{save_tiny_pipeline(tmp_path / 'other', vae_seed=7)}/vae", tmp_path / "vae")
    own, replaced = config_of(models, "sdxl"), config_of(models, "sdxl", vae=str(other))
    assert own.digest != replaced.digest
    assert model_fingerprint(own) != model_fingerprint(replaced)
    frozen = [load_backbone(config, device=CPU, dtype=torch.float32) for config in (own, replaced)]
    specs = [FrozenEncoders(backbone, 32) for backbone in frozen]
    assert specs[0].latents_spec != specs[1].latents_spec
    assert specs[0].texts_spec == specs[1].texts_spec
    latents = torch.randn(1, 4, 4, 4)
    assert not np.array_equal(*(decode_latents(backbone, latents) for backbone in frozen))


def test_another_content_of_the_vaes_folder_is_another_request(models, tmp_path):
    folder = shutil.copytree(f"{models['sdxl']}/vae", tmp_path / "vae")
    config = config_of(models, "sdxl", vae=str(folder))
    before = model_fingerprint(config)
    shutil.copytree(f"{save_tiny_pipeline(tmp_path / 'other', vae_seed=7)}/vae", folder, dirs_exist_ok=True)
    assert model_fingerprint(config) != before


def test_latents_of_one_vae_are_not_trained_with_another(models, tmp_path):
    other = shutil.copytree(f"{save_tiny_pipeline(tmp_path / 'other', vae_seed=7)}/vae", tmp_path / "vae")
    store = Store(str(tmp_path / "store"))
    dataset = make_dataset(tmp_path, store, captions_of(range(8)), "d")
    encoded = encode(dataset, config_of(models, "sdxl"), Runtime(), store, "e")
    training = TrainConfig(
        soft_tokens=UNetTokensConfig(init="normal"), num_steps=1, batch_size=3, validate_every_steps=0
    )
    with pytest.raises(CompatibilityError, match="another VAE"):
        train(encoded, config_of(models, "sdxl", vae=str(other)), training, Runtime(), store, "t", "tiny")


def test_a_vae_that_is_not_there_is_named(models, tmp_path):
    config = config_of(models, "sdxl", vae=str(tmp_path / "nothing"))
    with pytest.raises(MissingInputError) as error:
        load_backbone(config, device=CPU, dtype=torch.float32)
    assert error.value.where == config.vae
    assert "backbone.vae" in error.value.fix
