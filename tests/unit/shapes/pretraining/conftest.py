"""A small untrained U-Net, and what it is called with."""

import pytest
import torch

from softalign.shapes.pretraining.networks import build_denoiser
from softalign.shapes.pretraining.recipe import DenoiserConfig

WIDTH, LENGTH = 32, 6


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return build_denoiser(DenoiserConfig(widths=(32, 32)), WIDTH)


@pytest.fixture
def inputs():
    """Two latents, their timesteps, and texts of 6 tokens."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return draw(2, 16, 4, 4), torch.tensor([100, 800]), draw(2, LENGTH, WIDTH)
