"""One call of a denoiser: its arguments, by place or by name, and the soft tokens that travel among them.

Nothing of a call lives on a shared object or in the process, so calls may overlap in threads, nest, and be interrupted
at any place.

Shape legend: B rows, N layers, S soft tokens, D width. ``*N``: an axis that tokens of a U-Net lack.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from softalign.method.soft_tokens import POSITIVE_BANK, SoftTokens
from softalign.method.text_states import TextStates

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a module is called with: by place and by name."""
BanksOfRows = Callable[[nn.Module, int], Tensor | None]
"""Returns each row's bank, int64, of a call with so many rows of this denoiser, while it runs; None: psi+."""
SharesOfRows = Callable[[nn.Module, int], Tensor]
"""Returns each row's share of the strength, float32, of a call with so many rows of this denoiser, while it runs."""


class TokensInUse(NamedTuple):  # as all that is made inside of a call: torch.compile traces it whole
    """The soft tokens of one call of a denoiser.

    Attributes:
        tokens: where they are drawn from.
        scale: their strength, > 0.
        timestep: the call's own: one, or one a row.
        banks_B: each row's bank; None: psi+.
        shares_B: each row's share of the strength, float32, > 0; None: all have it whole.
    """

    tokens: SoftTokens
    scale: float
    timestep: Real[Tensor, "*B"] | float
    banks_B: Int[Tensor, " B"] | None
    shares_B: Float[Tensor, " B"] | None = None


def drawn_tokens(in_use: TokensInUse, num_rows: int, device: torch.device) -> Float[Tensor, "B *N S D"]:
    """Return each row's tokens, (B, *N, S, D), in the adapter's dtype.

    A block may have several rows for each of the call's own, one after another: the frames of a video.
    """
    timesteps_B = _for_rows(torch.as_tensor(in_use.timestep, device=device).reshape(-1), num_rows)
    if in_use.banks_B is None:
        banks_B = torch.full((num_rows,), POSITIVE_BANK, dtype=torch.int64, device=device)
    else:
        banks_B = _for_rows(in_use.banks_B.to(device), num_rows)
    drawn: Tensor = in_use.tokens(timesteps_B, banks_B)
    return drawn


def key_bias(in_use: TokensInUse, num_rows: int, device: torch.device) -> Float[Tensor, " B"] | float:
    """Return the strength's logarithm, of all rows or each: what is added to the logits of the inserted keys."""
    if in_use.shares_B is None:
        return math.log(in_use.scale)
    return (in_use.scale * _for_rows(in_use.shares_B.to(device), num_rows)).log()


def _for_rows(values: Tensor, num_rows: int) -> Tensor:
    if len(values) in (1, num_rows):
        return values.expand(num_rows)
    return values.repeat_interleave(num_rows // len(values))


def call_mmdit(
    transformer: nn.Module,
    noisy_latents_NCHW: Float[Tensor, "N C H W"],
    timesteps_N: Real[Tensor, " N"],
    text: TextStates,
) -> Float[Tensor, "N C H W"]:
    """Return what a Stable Diffusion 3 transformer of diffusers predicts; latents and text have its dtype."""
    prediction: Tensor = transformer(
        hidden_states=noisy_latents_NCHW,
        encoder_hidden_states=text.prompt_embeds_NLD,
        pooled_projections=text.pooled_NP,
        timestep=timesteps_N,
        return_dict=False,
    )[0]
    return prediction


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of what a module's forward takes, in their order."""
    return tuple(inspect.signature(type(module).forward).parameters)[1:]


def argument(names: tuple[str, ...], name: str, call: Arguments) -> Any:
    """Return one argument of a call, None where it was not given.

    Args:
        names: ``parameter_names`` of the module.
        name: which one.
        call: what the module is called with.
    """
    args, kwargs = call
    place = names.index(name)
    return args[place] if place < len(args) else kwargs.get(name)


def with_argument(names: tuple[str, ...], name: str, value: Any, call: Arguments) -> Arguments:
    """Return a call with one argument exchanged; see ``argument``."""
    args, kwargs = call
    place = names.index(name)
    if place < len(args):
        return (*args[:place], value, *args[place + 1 :]), kwargs
    return args, {**kwargs, name: value}
