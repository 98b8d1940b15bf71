"""A tiny random model, an adapter for it, and recorded arms, for the tests of this folder."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from softalign.adapters.base_fingerprint import fingerprint_of
from softalign.adapters.files import UNetPlacement, save_adapter
from softalign.artifacts import Adapter, ArmReports
from softalign.backbones.loading import load_backbone
from softalign.config import BackboneConfig, EvalConfig
from softalign.method.soft_tokens import SoftTokens
from softalign.shapes.suite import build_suite
from softalign.store.store import Store
from tests.recorded_arms import publish_arms
from tests.tiny_adapter import tiny_config
from tests.tiny_pipeline import TEXT_WIDTH, save_tiny_pipeline


@dataclass(frozen=True)
class Recorded:
    store: Store
    config: EvalConfig
    reports: ArmReports
    adapter: Adapter


def small_suite(per_tag=2):
    prompts = build_suite()
    return tuple(
        prompt
        for tag in dict.fromkeys(p.tag for p in prompts)
        for prompt in [p for p in prompts if p.tag == tag][:per_tag]
    )


@pytest.fixture(scope="session")
def prompts():
    return small_suite()


@pytest.fixture(scope="session")
def recorded(tmp_path_factory, prompts):
    """Three published arms, compared without guidance, and the base with guidance; read only."""
    store = Store(str(tmp_path_factory.mktemp("recorded")))
    config = EvalConfig(
        suite="shapes",
        images_per_prompt=2,
        num_inference_steps=15,
        guidance_scale=1.0,
        reference_guidance_scale=2.0,
        num_bootstrap=200,
    )
    return Recorded(store, config, *publish_arms(prompts, config, store))


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    folder = save_tiny_pipeline(tmp_path_factory.mktemp("model") / "tiny")
    return BackboneConfig(family="sd15", model=folder, resolution_px=32)


@pytest.fixture(scope="session")
def pipeline(backbone):
    return load_backbone(backbone, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def publish_tokens(backbone):
    """Return a function that publishes an adapter of the tiny model, with step-0 tokens in ``initial/``."""

    def publish(store, strength=3.0):
        unet = load_backbone(backbone, device=torch.device("cpu"), dtype=torch.float32).denoiser
        config = tiny_config(
            base_model=backbone.model,
            family="sd15",
            placement=UNetPlacement(blocks=("down", "mid"), position="after_bos"),
            num_soft_tokens=2,
            width=TEXT_WIDTH,
            timestep_bins=10,
            base_fingerprint=fingerprint_of(unet),
        )
        folder: Path = store.work_path("train", "tokens") / "out"
        torch.manual_seed(0)
        initial = SoftTokens(torch.zeros(2, 2, TEXT_WIDTH), torch.zeros(10, TEXT_WIDTH))
        trained = SoftTokens(strength * torch.randn(2, 2, TEXT_WIDTH), torch.randn(10, TEXT_WIDTH))
        final = save_adapter(folder, config, trained, None)
        save_adapter(folder / "initial", config, initial, None)
        record = Adapter(
            stage_key="tokens",
            name="tiny",
            base_model=backbone.model,
            base_model_revision="",
            backbone_digest="b",
            family="sd15",
            objective="agsm",
            num_parameters=1,
            num_steps=1,
            samples_seen=4,
            weights_sha256=final.weights_sha256,
            dataset_digest="d",
        )
        return store.publish(record, folder)

    return publish
