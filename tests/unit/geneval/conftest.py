"""A tiny random model of the embedded world's classes, and recorded arms, for the tests of this folder."""

from pathlib import Path

import pytest
import torch

from softalign.config import BackboneConfig
from softalign.shapes.export import export_pipeline
from softalign.shapes.networks import build_autoencoder, build_denoiser, build_text_encoder
from softalign.shapes.recipe import AutoencoderConfig, DenoiserConfig
from softalign.shapes.tokenizer import BOS_TOKEN, EOS_TOKEN, MAX_LENGTH, build_tokenizer


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = DenoiserConfig(widths=(16, 16), text_width=32, num_text_layers=1)
    bos_id, eos_id = tokenizer.convert_tokens_to_ids([BOS_TOKEN, EOS_TOKEN])
    return export_pipeline(
        tmp_path_factory.mktemp("model") / "weights",
        vae=build_autoencoder(AutoencoderConfig(block_out_channels=(8, 8, 8, 8))),
        text_encoder=build_text_encoder(config, len(tokenizer), bos_id, eos_id, MAX_LENGTH),
        unet=build_denoiser(config),
        tokenizer=tokenizer,
        recipe={},
    )


@pytest.fixture(scope="session")
def backbone(tiny_model_path: Path) -> BackboneConfig:
    return BackboneConfig(family="sd21", model=str(tiny_model_path), resolution_px=32)
