"""U-Nets with one text encoder (Stable Diffusion 1.x, 2.x): where soft tokens enter, and the denoiser for training.

Shape legend: N rows, C H W latents, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softalign.errors import CompatibilityError, ConfigError
from softalign.forward_process import PredictionType
from softalign.injection import SoftTokenInjection
from softalign.soft_tokens import SoftTokens


def injection_sites(unet: nn.Module, blocks: Sequence[str]) -> list[nn.Module]:
    """Return the blocks with cross attention among the chosen parts (``down``, ``mid``, ``up``) of a U-Net.

    Raises:
        ConfigError: a part has no cross attention, so tokens placed there would have no effect.
        CompatibilityError: this is no U-Net of diffusers.
    """
    if not (hasattr(unet, "down_blocks") and hasattr(unet, "mid_block") and hasattr(unet, "up_blocks")):
        raise CompatibilityError(
            "Soft tokens for a U-Net cannot be attached to this denoiser.",
            expected="UNet2DConditionModel",
            found=type(unet).__name__,
        )
    parts: dict[str, list[Any]] = {"down": list(unet.down_blocks), "mid": [unet.mid_block], "up": list(unet.up_blocks)}  # type: ignore[arg-type]
    sites = {name: [block for block in parts[name] if _has_cross_attention(block)] for name in dict.fromkeys(blocks)}
    empty = [name for name, found in sites.items() if not found]
    if empty:
        raise ConfigError(
            "Soft tokens are placed where the denoiser has no cross attention.",
            expected="blocks among "
            + ", ".join(name for name, all_ in parts.items() if any(map(_has_cross_attention, all_))),
            found=", ".join(empty),
            where="train.soft_tokens.blocks",
        )
    return [block for found in sites.values() for block in found]


def text_width(unet: nn.Module) -> int:
    """Return the width of the text states that cross attention reads.

    Raises:
        CompatibilityError: the blocks differ in it, so one token cannot serve them all.
    """
    width = unet.config.cross_attention_dim  # type: ignore[union-attr]
    if not isinstance(width, int):
        raise CompatibilityError(
            "The denoiser's blocks read text states of different widths.", expected="one width", found=str(width)
        )
    return width


def _has_cross_attention(block: Any) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


class UNetDenoiser:
    """A frozen U-Net that predicts with any soft tokens, each row with its own bank.

    Args:
        unet: diffusers' U-Net, frozen; its hooks are gone after ``close``.
        blocks: the parts that see the tokens.
        tokens: the tokens used outside of ``predict``.
        alphas_cumprod_T: the noise schedule.
        prediction_type: what the U-Net predicts.
    """

    def __init__(
        self,
        unet: nn.Module,
        blocks: Sequence[str],
        tokens: SoftTokens,
        alphas_cumprod_T: Tensor,
        prediction_type: PredictionType,
    ) -> None:
        self.unet = unet
        self.alphas_cumprod_T = alphas_cumprod_T
        self.prediction_type: PredictionType = prediction_type
        self._injection = SoftTokenInjection(unet, injection_sites(unet, blocks), tokens)

    def predict(
        self,
        noisy_latents_NCHW: Tensor,
        timesteps_N: Tensor,
        prompt_embeds_NLD: Tensor,
        tokens: SoftTokens,
        banks_N: Tensor,
    ) -> Tensor:
        """Return the U-Net's prediction (N, C, H, W) with these tokens and each row's bank."""
        dtype = next(self.unet.parameters()).dtype
        with self._injection.using(tokens, banks_N):
            prediction: Tensor = self.unet(
                noisy_latents_NCHW.to(dtype), timesteps_N, prompt_embeds_NLD.to(dtype), return_dict=False
            )[0]
        return prediction

    def close(self) -> None:
        """Take the hooks off the U-Net."""
        self._injection.remove()


def denoiser_of(unet: nn.Module, scheduler: Any, blocks: Sequence[str], tokens: SoftTokens) -> UNetDenoiser:
    """Return the training denoiser of a U-Net with its pipeline's scheduler."""
    alphas_cumprod_T = torch.as_tensor(scheduler.alphas_cumprod).cpu()
    return UNetDenoiser(unet, blocks, tokens, alphas_cumprod_T, scheduler.config.prediction_type)
