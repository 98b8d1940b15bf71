"""Every family as a tiny denoiser of diffusers' own class, with random tokens and texts; float64 by default."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler

from softalign.backbones.mmdit import MMDiTDenoiser
from softalign.backbones.unet import UNetDenoiser
from softalign.method.forward_process import DDPMProcess, FlowProcess
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates
from tests import tiny_sd3, tiny_sdxl, tiny_unet

NUM_TOKENS, NUM_BINS, TEXT_LENGTH, RESOLUTION_PX = 2, 100, 5, 64
SHIFT = 3.0
ALPHAS_CUMPROD = DDIMScheduler().alphas_cumprod


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@dataclass(frozen=True)
class TinyFamily:
    """What a family's tiny denoiser is and reads; ``layers`` is the axis of layers that a U-Net's tokens lack."""

    make_module: Callable[..., Any]
    process: Any
    text_width: int
    token_width: int
    pooled_width: int | None = None
    layers: tuple[int, ...] = ()

    def tokens(self, num_banks, seed, dtype=torch.float64):
        banks = drawn(num_banks, *self.layers, NUM_TOKENS, self.token_width, seed=seed, dtype=dtype)
        return SoftTokens(banks, drawn(NUM_BINS, *self.layers, self.token_width, seed=seed + 1, dtype=dtype).flatten(1))

    def text(self, num_prompts, seed, dtype=torch.float64):
        states = drawn(num_prompts, TEXT_LENGTH, self.text_width, seed=seed, dtype=dtype)
        if self.pooled_width is None:
            return TextStates(states)
        return TextStates(states, drawn(num_prompts, self.pooled_width, seed=seed + 1, dtype=dtype))

    def denoiser(self, tokens, *, blocks=("down", "mid"), module=None):
        module = self.make_module(dtype=torch.float64) if module is None else module
        if self.layers:
            return MMDiTDenoiser(module, tokens, self.process)
        return UNetDenoiser(module, blocks, tokens, self.process, RESOLUTION_PX)


def _unet(prediction_type, make_module, width, pooled_width=None):
    return TinyFamily(make_module, DDPMProcess(ALPHAS_CUMPROD, prediction_type), width, width, pooled_width)


def _mmdit(**changes):
    make_module = partial(tiny_sd3.make_transformer, **changes)
    widths = tiny_sd3.JOINT_WIDTH, tiny_sd3.STREAM_WIDTH, tiny_sd3.POOLED_WIDTH
    return TinyFamily(make_module, FlowProcess(SHIFT), *widths, layers=(2,))


FAMILIES = {
    "sd15": _unet("epsilon", tiny_unet.make_deep_unet, tiny_unet.WIDTH),
    "sd21": _unet("v_prediction", partial(tiny_unet.make_deep_unet, **tiny_unet.SD21), tiny_unet.WIDTH),
    "sdxl": _unet("epsilon", tiny_sdxl.make_xl_unet, tiny_sdxl.TEXT_WIDTH, tiny_sdxl.POOLED_WIDTH),
    "sd3": _mmdit(),
    "sd35": _mmdit(**tiny_sd3.SD35),
}
