"""Sample images: drawn with the live tokens, the same after an interruption, and without effect on the training."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from softalign import load_soft_tokens
from softalign.adapters.locating import resolve_adapter
from softalign.backbones.loading import load_backbone
from softalign.config import BackboneConfig, MMDiTTokensConfig, Runtime, TrainConfig, UNetTokensConfig
from softalign.data.encoding.encode import encode
from softalign.errors import PreemptedError
from softalign.sampling.sampling import ImageRequest, SamplingSettings, generate_batch
from softalign.store.store import Store
from softalign.training.sample_sheets import NUM_IMAGES, SampleSheets
from softalign.training.train import train
from tests.tiny_pipeline import save_tiny_pipeline
from tests.tiny_sd3 import save_tiny_sd3
from tests.tiny_sdxl import save_tiny_sdxl
from tests.unit.data.encoding.test_encode import captions_of, make_dataset

SIDE, NUM_STEPS = 32, 5
FAMILIES = {
    "sd15": (save_tiny_pipeline, {}, UNetTokensConfig()),
    "sdxl": (save_tiny_sdxl, {}, UNetTokensConfig(init="normal")),
    "sd3": (save_tiny_sd3, {"max_sequence_length": 6}, MMDiTTokensConfig(num_layers=2)),
}


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softalign.training.sample_sheets.NUM_INFERENCE_STEPS", NUM_STEPS)
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def setting(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    save, options, tokens = FAMILIES[request.param]
    backbone = BackboneConfig(family=request.param, model=save(root / "model"), resolution_px=SIDE, **options)
    store = Store(str(root / "store"))
    dataset = make_dataset(root, store, captions_of(range(40)), "d")
    encoded = encode(dataset, backbone, Runtime(), store, "e")
    config = TrainConfig(
        soft_tokens=tokens, num_steps=4, batch_size=3, validate_every_steps=0, optimizer={"learning_rate": 0.5}
    )
    return encoded, backbone, config, store


def trained(setting, key, **changes):
    encoded, backbone, config, store = setting
    runtime = Runtime(num_threads=1, checkpoint_every_steps=1)
    return train(encoded, backbone, config.model_copy(update=changes), runtime, store, key, "tiny")


def sheets_of(adapter):
    folder = resolve_adapter(adapter) / "samples"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def sampled(setting):
    return trained(setting, "sampled", sample_every_steps=2)


def test_training_is_the_same_with_and_without(setting, sampled):
    plain = trained(setting, "plain")
    assert plain.weights_sha256 == sampled.weights_sha256
    assert not (resolve_adapter(plain) / "samples").exists()


def test_sheets_are_there_and_differ_by_step(sampled):
    sheets = sheets_of(sampled)
    names = [f"step-{step:08d}.png" for step in (0, 2, 4)]
    assert list(sheets) == ["prompts.json", *names]
    assert len({sheets[name] for name in names}) == 3
    assert Image.open(resolve_adapter(sampled) / "samples" / names[0]).size == (NUM_IMAGES * SIDE, SIDE)
    assert len(json.loads(sheets["prompts.json"])["captions"]) == NUM_IMAGES


def test_the_last_sheet_is_what_the_adapter_draws(setting, sampled):
    _, backbone, config, _ = setting
    folder = resolve_adapter(sampled)
    captions = json.loads((folder / "samples" / "prompts.json").read_text())["captions"]
    frozen = load_backbone(backbone, device=torch.device("cpu"), dtype=torch.float32)
    frozen.use_papers_sampler()
    load_soft_tokens(frozen.pipeline, folder)
    requests = [ImageRequest(caption, index, 0, folder) for index, caption in enumerate(captions)]
    settings = SamplingSettings(num_inference_steps=NUM_STEPS, guidance_scale=4.0, resolution_px=SIDE, seed=config.seed)
    theirs = np.concatenate(list(generate_batch(frozen, requests, settings)), axis=1)
    ours = np.asarray(Image.open(folder / "samples" / "step-00000004.png"))
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1 + 3 * (backbone.family != "sd3")  # fp16 texts


def test_an_interrupted_run_has_the_same_sheets(setting, sampled, monkeypatch):
    own = SampleSheets.draw

    def draw_then_stop(sheets, step, **options):
        own(sheets, step, **options)
        if step == 2:
            monkeypatch.setattr(SampleSheets, "draw", own)
            raise KeyboardInterrupt

    monkeypatch.setattr(SampleSheets, "draw", draw_then_stop)
    with pytest.raises(KeyboardInterrupt):
        trained(setting, "interrupted", sample_every_steps=2)
    again = trained(setting, "interrupted", sample_every_steps=2)
    assert sheets_of(again) == sheets_of(sampled)
    assert again.weights_sha256 == sampled.weights_sha256


@pytest.mark.parametrize("num_passes", [0, 3])
def test_a_stop_during_a_sheet_leaves_it_to_the_next_attempt(setting, sampled, monkeypatch, num_passes):
    own, key = SampleSheets.draw, f"stopped {num_passes}"

    def draw_and_be_stopped(sheets, step, on_pass):
        passes = []

        def counted():
            if step == 2 and len(passes) == num_passes:
                os.kill(os.getpid(), signal.SIGTERM)
            passes.append(1)
            on_pass()

        own(sheets, step, on_pass=counted)

    with monkeypatch.context() as patch, pytest.raises(PreemptedError, match="step 2"):
        patch.setattr(SampleSheets, "draw", draw_and_be_stopped)
        trained(setting, key, sample_every_steps=2)
    again = trained(setting, key, sample_every_steps=2)
    assert sheets_of(again) == sheets_of(sampled)
    assert again.weights_sha256 == sampled.weights_sha256


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")],
    ids=["torch", "cublas"],
)
def test_memory_too_short_for_a_sheet_is_said_and_training_goes_on(setting, sampled, monkeypatch, caplog, error):
    def no_memory(_sheets, _on_pass):
        raise error

    monkeypatch.setattr(SampleSheets, "_images", no_memory)
    adapter = trained(setting, f"short {type(error).__name__}", sample_every_steps=2)
    assert adapter.weights_sha256 == sampled.weights_sha256
    assert "no sample images at step 2" in caplog.text
