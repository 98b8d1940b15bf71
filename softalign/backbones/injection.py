"""Soft tokens enter a denoiser by hooks on its blocks; no forward of diffusers is copied.

Strength, in every family: scale 0 inserts nothing, so the output is diffusers' own bit for bit; scale 1 inserts
plainly; any other scale s > 0 adds log(s) to the attention logits of the inserted keys, which multiplies their
unnormalised attention weights by s: continuous from the base (s -> 0) through the plain insertion (s = 1).

Here: what all families share, and the U-Nets' cross attention; ``joint_injection`` has the MMDiTs' joint attention.

Shape legend: B rows, L text tokens, N layers, S soft tokens, D width. ``*N``: an axis that tokens of a U-Net lack.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from softalign.errors import CompatibilityError, ConfigError
from softalign.method.soft_tokens import NEGATIVE_BANK, POSITIVE_BANK, SoftTokens

INSERT_AT = 1
"""Tokens go behind the first (BOS) position."""


class SoftTokenInjection(ABC):
    """Soft tokens attached to a denoiser, until ``remove``.

    Args:
        denoiser: the diffusers module.
        sites: its blocks that shall see the tokens, in the order of the tokens' layers where these have their own.
        tokens: the adapter; may be replaced for a while with ``using``.
        scale: strength, see the module's text.
        has_unconditional_half: if given, says at each call whether the first half of the rows is the unconditional
            branch of guidance; those rows see psi- then. If not, all rows see psi+.

    Raises:
        CompatibilityError: soft tokens are attached to this denoiser already.
        ConfigError: there is no site, or the scale is negative.
    """

    timestep_place: ClassVar[int]
    """Place of ``timestep`` among the arguments of the denoiser's forward."""

    def __init__(
        self,
        denoiser: nn.Module,
        sites: Sequence[nn.Module],
        tokens: SoftTokens,
        scale: float = 1.0,
        has_unconditional_half: Callable[[], bool] | None = None,
    ) -> None:
        if find_injection(denoiser) is not None:
            raise CompatibilityError(
                "This denoiser carries soft tokens already.",
                expected="a denoiser without soft tokens",
                found="soft tokens loaded before",
                fix="call handle.unload() of the first ones; two adapters cannot be combined",
            )
        if not sites:
            raise ConfigError("No block was named for the soft tokens.", expected="at least one block")
        self.tokens = tokens
        self.is_enabled = True
        self.scale = checked_scale(scale)
        self._has_unconditional_half = has_unconditional_half
        self._banks_B: Tensor | None = None
        self._timestep: Tensor | float | None = None
        self._handles = [denoiser.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for layer, site in enumerate(sites):
            self._handles += self._hooked(site, layer)

    @property
    def is_active(self) -> bool:
        """Whether the denoiser's next call sees the tokens."""
        return self.is_enabled and self.scale != 0.0

    def remove(self) -> None:
        """Take all hooks off; the modules are as they were before."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def using(self, tokens: SoftTokens, banks_B: Int[Tensor, " B"]) -> Iterator[None]:
        """Use these tokens and each row's bank for the denoiser calls inside; psi+ of the own tokens again after."""
        own = self.tokens
        self.tokens, self._banks_B = tokens, banks_B
        try:
            yield
        finally:
            self.tokens, self._banks_B = own, None

    @abstractmethod
    def _hooked(self, site: nn.Module, layer: int) -> list[RemovableHandle]:
        """Put the hooks on one block and return their handles."""

    def _begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the timestep of a denoiser call."""
        self._timestep = kwargs["timestep"] if "timestep" in kwargs else args[self.timestep_place]

    def _tokens_for(self, num_rows: int, device: torch.device) -> Tensor:
        """Return each row's tokens at the noted timestep, (B, *N, S, D), in the adapter's dtype."""
        timesteps_B = torch.as_tensor(self._timestep, device=device).reshape(-1).expand(num_rows)
        banks_B = self._inference_banks(num_rows, device) if self._banks_B is None else self._banks_B
        if self.tokens.banks.device != device:  # offloading moves the denoiser between devices
            self.tokens.to(device)
        drawn: Tensor = self.tokens(timesteps_B, banks_B)
        return drawn

    def _inference_banks(self, num_rows: int, device: torch.device) -> Tensor:
        """Return each row's bank outside of ``using``."""
        banks_B = torch.full((num_rows,), POSITIVE_BANK, dtype=torch.int64, device=device)
        if self._has_unconditional_half is not None and self._has_unconditional_half():
            if num_rows % 2:
                raise CompatibilityError(
                    "The rows of this call are not an unconditional and a conditional half.",
                    expected="an even number of rows",
                    found=f"{num_rows} rows",
                    fix="load the tokens with unconditional_bank='positive'",
                )
            banks_B[: num_rows // 2] = NEGATIVE_BANK
        return banks_B


class CrossAttentionInjection(SoftTokenInjection):
    """Soft tokens behind the first (BOS) position of the text that chosen blocks of a U-Net attend to.

    All sites see the same tokens; other blocks see the plain text. The sites are called with
    ``encoder_hidden_states``.
    """

    timestep_place = 1

    def _hooked(self, site: nn.Module, layer: int) -> list[RemovableHandle]:
        return [site.register_forward_pre_hook(self._insert, with_kwargs=True)]

    def _insert(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self.is_active:
            return None
        states = kwargs["encoder_hidden_states"]
        text_BLD = states[0] if isinstance(states, tuple) else states  # a tuple: text and an IP-Adapter's image states
        tokens_BSD = self._tokens_for(text_BLD.shape[0], text_BLD.device).to(text_BLD.dtype)
        joined = _inserted(text_BLD, tokens_BSD)
        bias = _inserted_bias(kwargs.get("encoder_attention_mask"), text_BLD, tokens_BSD.shape[1], self.scale)
        changed = (joined, *states[1:]) if isinstance(states, tuple) else joined
        return args, {**kwargs, "encoder_hidden_states": changed, "encoder_attention_mask": bias}


def checked_scale(scale: float) -> float:
    """Return a usable scale.

    Raises:
        ConfigError: it is negative or not a number.
    """
    if not (math.isfinite(scale) and scale >= 0.0):
        raise ConfigError("The scale of soft tokens is out of range.", expected="a number >= 0", found=str(scale))
    return float(scale)


def find_injection(denoiser: nn.Module) -> SoftTokenInjection | None:
    """Return the soft tokens attached to a denoiser, or None."""
    owners = (getattr(hook, "__self__", None) for hook in denoiser._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, SoftTokenInjection)), None)


def _inserted(text_BLD: Tensor, tokens_BSD: Tensor) -> Tensor:
    return torch.cat([text_BLD[:, :INSERT_AT], tokens_BSD, text_BLD[:, INSERT_AT:]], dim=1)


def _inserted_bias(mask: Tensor | None, text_BLD: Tensor, num_tokens: int, scale: float) -> Tensor | None:
    """Return the attention bias (B, 1, L + S) for the longer text; None where nothing needs one."""
    if mask is None and scale == 1.0:
        return None
    if mask is None:
        bias = text_BLD.new_zeros(text_BLD.shape[0], 1, text_BLD.shape[1])
    elif mask.ndim == 2:  # 1 keep, 0 drop: a block called on its own; a U-Net hands its blocks a bias
        bias = ((1 - mask.to(text_BLD.dtype)) * -10000.0).unsqueeze(1)
    else:
        bias = mask
    own = bias.new_full((*bias.shape[:2], num_tokens), math.log(scale))
    return torch.cat([bias[..., :INSERT_AT], own, bias[..., INSERT_AT:]], dim=-1)
