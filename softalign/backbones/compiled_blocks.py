"""torch.compile for training: the blocks that a denoiser repeats, each compiled once for all its places."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from softalign.errors import CompatibilityError

REPEATED = ("BasicTransformerBlock", "ResnetBlock2D", "JointTransformerBlock")
"""What diffusers' U-Nets and MMDiTs are built of."""
MAX_VARIANTS = 64
"""Versions of one block's code: widths, resolutions, with and without tokens and gradient; torch gives up after 8."""


def compile_blocks(denoiser: nn.Module, backend: str = "inductor") -> int:
    """Compile the forward of the repeated blocks of a diffusers denoiser, and return how many there are.

    Blocks and not the whole: that compiles in a fraction of the time, and soft tokens come and go by hooks around the
    blocks, which stay outside. Last bits of the predictions change.

    Raises:
        CompatibilityError: it has none of these blocks.
    """
    blocks: list[Any] = [module for module in denoiser.modules() if type(module).__name__ in REPEATED]
    if not blocks:
        raise CompatibilityError(
            "This denoiser cannot be compiled block by block.",
            expected="repeated blocks, as diffusers' U-Nets and MMDiTs have them",
            found=type(denoiser).__name__,
            fix="set runtime.compile to false",
        )
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_VARIANTS)
    for block in blocks:
        block.forward = torch.compile(block.forward, backend=backend)
    return len(blocks)
