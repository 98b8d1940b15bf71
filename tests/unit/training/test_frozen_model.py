"""What each rank loads of the frozen model, and which encoded sets are refused for it."""

from dataclasses import dataclass

import pytest
import torch

from softalign.adapters.base_fingerprint import fingerprint_of
from softalign.backbones.identity import component_digest
from softalign.backbones.loading import load_backbone
from softalign.config import BackboneConfig, MMDiTTokensConfig, Runtime, TrainConfig, UNetTokensConfig
from softalign.data.encoding.encode import encode
from softalign.data.encoding.encoders import FrozenEncoders
from softalign.errors import CompatibilityError
from softalign.store.store import Store
from softalign.training.frozen_model import load_frozen
from softalign.training.process_group import ALONE, ProcessGroup
from softalign.training.train import train
from tests.tiny_pipeline import save_tiny_pipeline
from tests.tiny_sd3 import save_tiny_sd3
from tests.tiny_sdxl import save_tiny_sdxl
from tests.unit.data.encoding.test_encode import captions_of, make_dataset

CPU = torch.device("cpu")
SAVE = {"sd15": save_tiny_pipeline, "sdxl": save_tiny_sdxl, "sd3": save_tiny_sd3}
TEXT_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")


@dataclass(frozen=True)
class Listening(ProcessGroup):
    """One of two ranks: rank 0's words are kept, the other hears what the test says."""

    told: bytes = b""
    said: tuple = ()

    def from_leader(self, data):
        object.__setattr__(self, "said", (*self.said, data))
        return data if self.is_leader else self.told


@pytest.fixture(scope="module", params=SAVE)
def setting(request, tmp_path_factory):
    """Return a backbone and what it encoded."""
    root = tmp_path_factory.mktemp(request.param)
    options = {"max_sequence_length": 6} if request.param == "sd3" else {}
    backbone = BackboneConfig(
        family=request.param, model=SAVE[request.param](root / "model"), resolution_px=32, **options
    )
    store = Store(str(root / "store"))
    dataset = make_dataset(root, store, captions_of(range(8)), "d")
    return backbone, encode(dataset, backbone, Runtime(), store, "e"), store


def parts_of(backbone):
    parts = {name for name, part in backbone.pipeline.components.items() if part is not None}
    return parts & {"vae", "unet", "transformer", *TEXT_PARTS}


def test_ranks_hold_the_denoiser_and_no_encoder(setting):
    config, encoded, _ = setting
    denoiser = "transformer" if config.family == "sd3" else "unet"
    leader = Listening(0, 2)
    first = load_frozen(config, encoded, CPU, leader, has_vae=False)
    other = load_frozen(config, encoded, CPU, Listening(1, 2), has_vae=True)
    assert parts_of(first.backbone) == parts_of(other.backbone) == {denoiser}
    assert leader.said == (b"",)
    assert component_digest(other.backbone.denoiser) == component_digest(first.backbone.denoiser)
    drawing = load_frozen(config, encoded, CPU, ALONE, has_vae=True)
    assert parts_of(drawing.backbone) == {denoiser, "vae"}


def test_rank_0_knows_which_denoiser_it_is(setting):
    config, encoded, _ = setting
    whole = load_backbone(config, device=CPU, dtype=torch.float32)
    identity = load_frozen(config, encoded, CPU, ALONE, has_vae=False).identity
    assert identity.backbone_digest == component_digest(whole.denoiser) == encoded.backbone_digest
    assert identity.fingerprint == fingerprint_of(whole.denoiser)
    assert load_frozen(config, encoded, CPU, Listening(1, 2), has_vae=False).identity is None


def test_all_ranks_end_with_rank_0s_refusal(setting):
    config, encoded, _ = setting
    other = encoded.model_copy(update={"vae_digest": "another"})
    leader = Listening(0, 2)
    with pytest.raises(CompatibilityError, match="another VAE") as refused:
        load_frozen(config, other, CPU, leader, has_vae=False)
    assert leader.said == (str(refused.value).encode(),)
    with pytest.raises(CompatibilityError, match="another VAE"):
        load_frozen(config, other, CPU, Listening(1, 2, told=leader.said[0]), has_vae=False)


def test_encoding_leaves_the_denoiser_where_it_is(setting):
    config, _, _ = setting
    backbone = load_backbone(config, device=CPU, dtype=torch.float32)
    FrozenEncoders(backbone, 32).to(torch.device("meta"))
    assert backbone.denoiser.device == CPU
    moved = [backbone.pipeline.vae, *backbone.text_encoders]
    assert {module.device.type for module in moved} == {"meta"}


@pytest.mark.parametrize(
    ("changes", "message", "expected"),
    [({"resolution_px": 64}, "latents of another resolution", 8), ({"max_sequence_length": 11}, "texts of", 16 + 11)],
)
def test_encodings_of_another_shape_are_refused(setting, changes, message, expected):
    config, encoded, store = setting
    if config.family != "sd3" and "max_sequence_length" in changes:
        pytest.skip("the texts of a U-Net have one length")
    soft = MMDiTTokensConfig(num_layers=2) if config.family == "sd3" else UNetTokensConfig(init="normal")
    training = TrainConfig(soft_tokens=soft, num_steps=1, batch_size=3, validate_every_steps=0)
    other = config.model_copy(update=changes)
    with pytest.raises(CompatibilityError, match=message) as error:
        train(encoded, other, training, Runtime(), store, "t", "tiny")
    assert error.value.expected.endswith(f" {expected}")
    assert "backbone.resolution_px" in error.value.fix
