"""Up blocks that read the empty text for a share of the images, so that the blocks before them learn to tell the text.

Soft tokens are read in the down and mid blocks alone; in a U-Net this small the text acts through the up blocks where
it may (measured: tokens that draw a tenth of the attention changed 0.3 % of the prediction).

Shape legend: B images, L text tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn


class UpBlocksText:
    """Gives the up blocks of a U-Net their own text states (B, L, D), where ``states_BLD`` is set.

    Args:
        unet: its up blocks get a hook each, which stays.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.states_BLD: Tensor | None = None
        for block in unet.up_blocks:
            block.register_forward_pre_hook(self._exchanged, with_kwargs=True)

    def _exchanged(
        self, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs if self.states_BLD is None else {**kwargs, "encoder_hidden_states": self.states_BLD}

    def drop(self, is_dropped_B: Tensor, states_BLD: Tensor, empty_LD: Tensor) -> None:
        """Set what the next forward pass reads: the empty text's states where it is dropped."""
        self.states_BLD = torch.where(is_dropped_B[:, None, None], empty_LD, states_BLD)
