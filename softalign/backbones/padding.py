"""What an MMDiT's text stream holds where there is no text: tokens that begin so change nothing it has not learned.

A joint block normalises each text token by itself (``AdaLayerNormZero``: no scale or shift before the timestep's), so
only a token's direction counts, and a random one is read as a word that no text has. Padding is what the model was
trained to pass over. Measured in the embedded world without guidance: four tokens drawn from N(0, 0.02) in each of four
blocks cost 6 to 12 points, four that begin as padding none.

Shape legend: N blocks, L text tokens, D width of the text stream, C H W latents.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from softalign.backbones.calls import Arguments, argument, call_mmdit
from softalign.backbones.joint_injection import JOINT_BLOCK
from softalign.method.soft_tokens import NUM_TRAIN_TIMESTEPS
from softalign.method.text_states import TextStates

TIMESTEPS = tuple(range(50, NUM_TRAIN_TIMESTEPS, 100))
"""At which the stream is looked at: the middles of ten equal parts."""


@torch.no_grad()
def padding_states(transformer: nn.Module, blocks: list[nn.Module], empty: TextStates) -> Float[Tensor, "N D"]:
    """Return the states before each block of the empty prompt's last position, means over noise levels; float32.

    The images are grey (latents of 0) under noise of a fixed seed.

    Args:
        transformer: of diffusers (Stable Diffusion 3 and 3.5), frozen, on its device.
        blocks: joint blocks of it.
        empty: the empty prompt's text states, one row.
    """
    caught: list[list[Tensor]] = [[] for _ in blocks]
    handles = [
        block.register_forward_pre_hook(partial(_catch, states), with_kwargs=True)
        for block, states in zip(blocks, caught, strict=True)
    ]
    try:
        for timestep in TIMESTEPS:
            _look(transformer, empty, timestep)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([torch.stack(states).mean(dim=0) for states in caught])


def _look(transformer: nn.Module, empty: TextStates, timestep: int) -> None:
    parameter, config = next(transformer.parameters()), cast("Any", transformer.config)
    text = empty.to(parameter.device, parameter.dtype)
    shape_CHW = (config.in_channels, config.sample_size, config.sample_size)
    noise_1CHW = torch.randn(1, *shape_CHW, generator=torch.Generator().manual_seed(timestep))
    noisy_1CHW = (noise_1CHW * timestep / NUM_TRAIN_TIMESTEPS).to(parameter.device, parameter.dtype)
    call_mmdit(transformer, noisy_1CHW, torch.tensor([float(timestep)], device=parameter.device), text)


def _catch(states: list[Tensor], _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
    text_1LD: Tensor = argument(JOINT_BLOCK, "encoder_hidden_states", (args, kwargs))
    states.append(text_1LD[0, -1].float().cpu())
    return None
