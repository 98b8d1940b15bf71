"""The stages on CUDA, on tiny folders: encode, train with a stop between, generate in bf16, offloaded pipelines.

Run there with ``pytest -m gpu tests/gpu``; the same tests run on the CPU in every other run.
"""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionXLPipeline

from softalign import load_soft_tokens
from softalign.adapters.locating import resolve_adapter
from softalign.backbones.frozen_pipeline import backbone_dtype
from softalign.backbones.loading import load_backbone
from softalign.config import BackboneConfig, ConstantConfig, MMDiTTokensConfig, Runtime, TrainConfig, UNetTokensConfig
from softalign.data.encoding.encode import encode
from softalign.data.encoding.reader import EncodedReader
from softalign.errors import PreemptedError
from softalign.sampling.sampling import ImageRequest, SamplingSettings, generate_batch
from softalign.store.store import Store
from softalign.training import train
from tests import tiny_sd3, tiny_sdxl
from tests.unit.data.encoding.test_encode import captions_of, make_dataset
from tests.unit.training.tiny_training import stopped_after

RESOLUTION, T5_LENGTH = 32, 6
TOKENS = {"sdxl": UNetTokensConfig(init="normal"), "sd3": MMDiTTokensConfig(num_layers=2)}
SETTINGS = SamplingSettings(num_inference_steps=2, guidance_scale=4.0, resolution_px=RESOLUTION, seed=3)


@pytest.fixture(scope="module", params=TOKENS)
def backbone(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    if request.param == "sdxl":
        return BackboneConfig(family="sdxl", model=tiny_sdxl.save_tiny_sdxl(folder), resolution_px=RESOLUTION)
    model = tiny_sd3.save_tiny_sd3(folder)
    return BackboneConfig(family="sd3", model=model, resolution_px=RESOLUTION, max_sequence_length=T5_LENGTH)


def runtime_on(device):
    return Runtime(device=device.type, num_threads=1, checkpoint_every_steps=2)


def encoded_on(device, backbone, root):
    """Return an encoded set and its store: one store per device, as what a store holds is not encoded again."""
    store = Store(str(root / device.type))
    dataset = make_dataset(root / f"{device.type}-images", store, captions_of(range(8)), "d")
    return encode(dataset, backbone, runtime_on(device), store, "e"), store


def trained_on(device, backbone, encoded, store, key="t"):
    """Train three steps with a learning rate that moves tokens far beyond the rounding of bf16."""
    tokens, optimizer = TOKENS[backbone.family], ConstantConfig(learning_rate=0.5)
    config = TrainConfig(soft_tokens=tokens, optimizer=optimizer, num_steps=3, batch_size=3, validate_every_steps=0)
    return train.train(encoded, backbone, config, runtime_on(device), store, key, "tiny")


def test_encodings_are_those_of_the_cpu(any_device, backbone, tmp_path):
    batches = []
    for device in (torch.device("cpu"), any_device):
        encoded, store = encoded_on(device, backbone, tmp_path / f"for-{len(batches)}")
        batches.append(EncodedReader(encoded, store, split="train", batch_size=3, seed=0).batch_at(0))
    expected, found = batches
    assert found.keys == expected.keys
    pairs = [
        (found.latents_BCHW, expected.latents_BCHW),
        *zip(found.text.tensors(), expected.text.tensors(), strict=True),
    ]
    for left, right in pairs:
        assert torch.allclose(left.float(), right.float(), atol=2e-2, rtol=1e-2)  # CUDA's convolutions compute in TF32


def test_a_stopped_training_ends_with_the_undisturbed_ones_bytes(
    any_device, deterministic, backbone, tmp_path, monkeypatch
):
    encoded, store = encoded_on(any_device, backbone, tmp_path)
    whole = trained_on(any_device, backbone, encoded, store, "whole")
    with stopped_after(2) as stop, monkeypatch.context() as patched:
        patched.setattr(train, "StopRequest", lambda: stop)
        with pytest.raises(PreemptedError):
            trained_on(any_device, backbone, encoded, store, "halved")
    halved = trained_on(any_device, backbone, encoded, store, "halved")
    assert halved.weights_sha256 == whole.weights_sha256


@pytest.fixture
def adapter(any_device, backbone, tmp_path):
    return resolve_adapter(trained_on(any_device, backbone, *encoded_on(any_device, backbone, tmp_path)))


def test_images_with_tokens_in_the_devices_dtype(any_device, backbone, adapter, tmp_path):
    frozen = load_backbone(backbone, device=any_device, dtype=backbone_dtype(any_device))
    assert frozen.denoiser.dtype == backbone_dtype(any_device)
    requests = [ImageRequest("a red circle", 0, index, tmp_path / f"{index}.png") for index in range(2)]

    def images():
        return np.stack(list(generate_batch(frozen, requests, SETTINGS)))

    base = images()
    handle = load_soft_tokens(frozen.pipeline, adapter)
    with_tokens = images()
    assert with_tokens.shape == (2, RESOLUTION, RESOLUTION, 3)
    assert not np.array_equal(with_tokens, base)
    handle.set_scale(0.5)
    assert not np.array_equal(images(), with_tokens)
    handle.set_scale(0.0)
    assert np.array_equal(images(), base)
    handle.unload()
    assert np.array_equal(images(), base)


def images_of(pipe):
    options = {} if isinstance(pipe, StableDiffusionXLPipeline) else {"max_sequence_length": T5_LENGTH}
    return pipe(
        ["a red circle", "a photo of a square"],
        num_inference_steps=2,
        guidance_scale=4.0,
        height=RESOLUTION,
        width=RESOLUTION,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **options,
    ).images


@pytest.mark.parametrize("is_loaded_first", [True, False])
def test_an_offloaded_pipeline_gives_the_images_of_one_on_the_device(any_device, backbone, adapter, is_loaded_first):
    kind = StableDiffusionXLPipeline if backbone.family == "sdxl" else StableDiffusion3Pipeline
    plain, pipe = (kind.from_pretrained(backbone.model) for _ in range(2))
    for one in (plain, pipe):
        one.set_progress_bar_config(disable=True)
    plain.to(any_device)
    base = images_of(plain)
    with load_soft_tokens(plain, adapter):
        expected = images_of(plain)
    assert not np.array_equal(expected, base)
    handle = load_soft_tokens(pipe, adapter) if is_loaded_first else None
    pipe.enable_model_cpu_offload(device=any_device)
    handle = handle or load_soft_tokens(pipe, adapter)
    assert np.array_equal(images_of(pipe), expected)
    handle.unload()
    assert np.array_equal(images_of(pipe), base)
