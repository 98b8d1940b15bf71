"""An adapter's folder for any tiny denoiser, with tokens that can be told apart."""

import torch

from softalign.adapters.base_fingerprint import fingerprint_of
from softalign.adapters.files import AdapterConfig, MMDiTPlacement, UNetPlacement, save_adapter
from softalign.method.soft_tokens import SoftTokens

NUM_TOKENS = 2


def tiny_config(**fields):
    """Return an adapter's configuration; what does not matter to most tests need not be said."""
    usual = {
        "base_model_revision": "",
        "num_banks": 2,
        "has_ema": False,
        "objective": "agsm",
        "num_steps": 1,
        "samples_seen": 4,
        "dataset_digest": "d",
        "library_version": "0",
        "weights_sha256": "",
    }
    return AdapterConfig(**{**usual, **fields})


def write_adapter(folder, family, denoiser, *, is_random=False):
    """Write an adapter: psi+ is 1 everywhere, psi- is 2, the table 0; or all is random."""
    is_joint = family == "sd3"
    width = denoiser.config.caption_projection_dim if is_joint else denoiser.config.cross_attention_dim
    layers = (1,) if is_joint else ()
    banks = torch.ones(2, *layers, NUM_TOKENS, width)
    banks[1] = 2.0
    table = torch.zeros(100, width)
    if is_random:
        generator = torch.Generator().manual_seed(7)
        banks, table = (torch.randn(like.shape, generator=generator) for like in (banks, table))
    config = tiny_config(
        base_model="tiny",
        family=family,
        placement=MMDiTPlacement(num_layers=1, position="append")
        if is_joint
        else UNetPlacement(blocks=("down",), position="after_bos"),
        num_soft_tokens=NUM_TOKENS,
        width=width,
        timestep_bins=100,
        dataset_digest="",
        base_fingerprint=fingerprint_of(denoiser),
    )
    save_adapter(folder, config, SoftTokens(banks, table), None)
    return folder
