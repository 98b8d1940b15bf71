"""The adapter: soft text tokens with a timestep table, the only trainable part (METHOD of AGSM and SoftREPA).

Shape legend: B rows, K banks (0 is psi+, 1 is psi-), N layers, S soft tokens, D width of the text states, T timestep
bins. ``*N`` is an axis of layers that tokens of a U-Net do not have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

NUM_TRAIN_TIMESTEPS = 1000
"""Timesteps of every backbone: 0..999, or floats in [0, 1000] with flow matching."""
POSITIVE_BANK = 0
NEGATIVE_BANK = 1


class SoftTokens(nn.Module):
    """Banks of soft tokens that share one timestep table: ``token(t) = bank + table[t // (1000/T)]``.

    Args:
        banks: (K, S, D), or (K, N, S, D) where each layer has its own tokens; bank 0 is psi+, bank 1 psi-.
        timestep_offsets: the table, (T, D) or (T, N * D); None: the tokens are the same at every timestep.
    """

    def __init__(self, banks: Float[Tensor, "K *N S D"], timestep_offsets: Float[Tensor, "T _"] | None) -> None:
        super().__init__()
        self.banks = nn.Parameter(banks)
        self.timestep_offsets = None if timestep_offsets is None else nn.Parameter(timestep_offsets)

    @property
    def num_layers(self) -> int | None:
        """How many layers have tokens of their own (N); None: all blocks see the same."""
        return self.banks.shape[1] if self.banks.ndim == 4 else None

    @property
    def num_banks(self) -> int:
        """How many banks there are: 2 with psi-, else 1."""
        return self.banks.shape[0]

    @property
    def num_soft_tokens(self) -> int:
        """How many tokens one bank holds (S)."""
        return self.banks.shape[-2]

    @property
    def width(self) -> int:
        """Width of the text states the tokens join (D)."""
        return self.banks.shape[-1]

    @property
    def num_timestep_bins(self) -> int:
        """Rows of the timestep table (T); 0: there is no table."""
        return 0 if self.timestep_offsets is None else self.timestep_offsets.shape[0]

    def forward(self, timesteps_B: Real[Tensor, " B"], banks_B: Int[Tensor, " B"]) -> Float[Tensor, "B *N S D"]:
        """Return the tokens of each row, (B, *N, S, D) in the parameters' dtype.

        Args:
            timesteps_B: integers or floats in [0, 1000].
            banks_B: each row's bank, int64.
        """
        if self.timestep_offsets is None:
            return self.banks[banks_B]
        bins_B = timestep_bins(timesteps_B, self.num_timestep_bins)
        layers = self.banks.shape[1:-2]
        offsets = self.timestep_offsets[bins_B].view(len(bins_B), *layers, 1, self.width)
        return self.banks[banks_B] + offsets


def timestep_bins(timesteps_B: Real[Tensor, " B"], num_timestep_bins: int) -> Int[Tensor, " B"]:
    """Return each timestep's row in a table of ``num_timestep_bins`` rows, int64; 1000 falls into the last one."""
    scaled = timesteps_B * num_timestep_bins
    if timesteps_B.is_floating_point():
        bins = torch.floor(scaled / NUM_TRAIN_TIMESTEPS).long()
    else:
        bins = (scaled // NUM_TRAIN_TIMESTEPS).long()
    return bins.clamp(0, num_timestep_bins - 1)


@dataclass(frozen=True)
class TokensShape:
    """How many banks (K), tokens of a bank (S), timestep bins (T), and layers with own tokens (N; None: all share)."""

    num_banks: int
    num_soft_tokens: int
    num_timestep_bins: int
    num_layers: int | None = None

    def banks_of(self, width: int) -> tuple[int, ...]:
        """Return the shape of the banks: (K, S, D), or (K, N, S, D)."""
        layers = () if self.num_layers is None else (self.num_layers,)
        return (self.num_banks, *layers, self.num_soft_tokens, width)

    def table_of(self, width: int) -> tuple[int, int]:
        """Return the shape of the timestep table: (T, D), or (T, N * D)."""
        return self.num_timestep_bins, (self.num_layers or 1) * width


def soft_tokens_from_bos(
    bos_D: Float[Tensor, " D"], shape: TokensShape, *, std: float, generator: torch.Generator
) -> SoftTokens:
    """Return tokens that are copies of the empty prompt's BOS state, and a table drawn from N(0, std)."""
    width = bos_D.shape[0]
    banks = bos_D.float().expand(shape.banks_of(width)).clone()
    return SoftTokens(banks, std * torch.randn(shape.table_of(width), generator=generator))


def soft_tokens_from_padding(states_ND: Float[Tensor, "N D"], shape: TokensShape, *, std: float) -> SoftTokens:
    """Return tokens of each layer that have the direction of its state and ``std`` as root mean square; no offsets.

    Joint blocks see a text token's direction alone; how long it is says how far a step of the optimiser turns it.
    """
    width = states_ND.shape[-1]
    directions_ND = states_ND.float() / states_ND.float().square().mean(dim=-1, keepdim=True).sqrt()
    banks = (std * directions_ND[:, None]).expand(shape.banks_of(width)).clone()
    return SoftTokens(banks, torch.zeros(shape.table_of(width)))


def soft_tokens_from_normal(width: int, shape: TokensShape, *, std: float, generator: torch.Generator) -> SoftTokens:
    """Return tokens and table drawn from N(0, std)."""
    banks = std * torch.randn(shape.banks_of(width), generator=generator)
    table = std * torch.randn(shape.table_of(width), generator=generator)
    return SoftTokens(banks, table)


@torch.no_grad()
def update_ema(ema: SoftTokens, live: SoftTokens, decay: float) -> None:
    """Move the averaged tokens towards the live ones: ``ema = decay * ema + (1 - decay) * live``.

    Only the adapter is averaged; the frozen backbone belongs to neither module.
    """
    for averaged, current in zip(ema.parameters(), live.parameters(), strict=True):
        averaged.lerp_(current, 1.0 - decay)
