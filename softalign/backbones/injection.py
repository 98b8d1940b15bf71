"""Soft tokens enter a denoiser by hooks on its blocks; no forward of diffusers is copied.

Strength, in every family: scale 0 inserts nothing, so the output is diffusers' own bit for bit; scale 1 inserts
plainly; any other scale s > 0 adds log(s) to the attention logits of the inserted keys, which multiplies their
unnormalised attention weights by s: continuous from the base (s -> 0) through the plain insertion (s = 1).

What one call of the denoiser needs (its timestep, its rows' banks, the strength when it began) travels among that
call's own arguments, in the dict that diffusers hands from a denoiser to its blocks, and leaves it where a block is
entered.

Here: what all families share, and the U-Nets' cross attention; ``joint_injection`` has the MMDiTs' joint attention.

Shape legend: B rows, L text tokens, N layers, S soft tokens, D width.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import count
from numbers import Real
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from softalign.backbones.calls import (
    Arguments,
    BanksOfRows,
    SharesOfRows,
    TokensInUse,
    argument,
    drawn_tokens,
    key_bias,
    parameter_names,
    with_argument,
)
from softalign.backbones.compiled_calls import Noticed
from softalign.config.base import MAX_SCALE
from softalign.errors import CompatibilityError, ConfigError
from softalign.method.soft_tokens import SoftTokens

INSERT_AT = 1
"""Tokens go behind the first (BOS) position."""


@dataclass(frozen=True)
class _Lent:
    injection: SoftTokenInjection
    tokens: SoftTokens
    banks_B: Tensor


_lent: ContextVar[_Lent | None] = ContextVar("lent soft tokens", default=None)
"""What ``using`` lends to the calls of this thread; its ``with`` takes it back whatever ends it."""


class SoftTokenInjection(ABC):
    """Soft tokens attached to a denoiser, until ``remove``.

    Args:
        denoiser: the diffusers module.
        sites: its blocks that shall see the tokens, in the order of the tokens' layers where these have their own.
        tokens: the adapter; other ones may be used for a while with ``using``.
        scale: strength, see the module's text.
        banks_of: if given, says each row's bank while a call runs. If not, all rows see psi+.
        shares_of: if given, says each row's share of the strength while a call runs.
        is_composed: whether others may be attached already: the tokens of all are inserted side by side.
        origin: what shall be found again on the attached tokens.

    Raises:
        CompatibilityError: soft tokens are attached to this denoiser already.
        ConfigError: there is no site, or the scale is out of range.
    """

    options_name: ClassVar[str]
    """Name of the dict that the denoiser hands to its blocks."""

    def __init__(
        self,
        denoiser: nn.Module,
        sites: Sequence[nn.Module],
        tokens: SoftTokens,
        scale: float = 1.0,
        banks_of: BanksOfRows | None = None,
        *,
        shares_of: SharesOfRows | None = None,
        is_composed: bool = False,
        origin: object = None,
    ) -> None:
        before = find_injections(denoiser)
        if before and not is_composed:
            raise CompatibilityError(
                "This denoiser carries soft tokens already.",
                expected="a denoiser without soft tokens",
                found="soft tokens loaded before",
                fix="take them out with softalign.unload_soft_tokens(pipe), or load the new ones with replace=True, or "
                "beside them with compose=True",
            )
        if not sites:
            raise ConfigError("No block was named for the soft tokens.", expected="at least one block")
        self.scale = checked_scale(scale)
        self.tokens, self.origin, self.is_enabled = tokens, origin, True
        self._banks_of, self._shares_of = banks_of, shares_of
        self._key: str = _free_key(denoiser, sites, [injection._key for injection in before])
        self._parameters = parameter_names(denoiser)
        self._copies: dict[torch.device, SoftTokens] = {}
        self._lendings: set[int] = set()  # of any thread: whose they are is in the context
        self._handles: list[RemovableHandle | Noticed] = [
            denoiser.register_forward_pre_hook(self._begin, with_kwargs=True)
        ]
        if getattr(denoiser, "_compiled_call_impl", None) is not None:  # by denoiser.compile()
            self._handles.append(Noticed(denoiser, self._key))
        layers = {id(site): layer for layer, site in enumerate(sites)}
        for block in self._blocks(denoiser):
            self._handles += self._hooked(block, layers.get(id(block)))

    @property
    def is_active(self) -> bool:
        """Whether the denoiser's next call sees the tokens."""
        return self.is_enabled and self.scale != 0.0

    @property
    def is_attached(self) -> bool:
        """Whether the tokens were not taken out yet."""
        return bool(self._handles)

    def keep_until_removed(self, handle: RemovableHandle) -> None:
        """Take a further hook off together with the tokens."""
        self._handles.append(handle)

    def remove(self) -> None:
        """Take all hooks off; the modules are as they were before."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def using(self, tokens: SoftTokens, banks_B: Int[Tensor, " B"]) -> Iterator[None]:
        """Use these tokens and each row's bank for this thread's denoiser calls inside."""
        lending = _Lent(self, tokens, banks_B)
        self._lendings.add(id(lending))
        before = _lent.set(lending)
        try:
            yield
        finally:
            _lent.reset(before)
            self._lendings.discard(id(lending))

    @abstractmethod
    def _blocks(self, denoiser: nn.Module) -> list[nn.Module]:
        """Return all blocks that the denoiser hands its options to."""

    @abstractmethod
    def _hooked(self, block: nn.Module, layer: int | None) -> list[RemovableHandle]:
        """Put the hooks on one block and return their handles; ``layer``: its place among the sites, if it is one."""

    def _begin(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Send the soft tokens of a call of the denoiser along with its arguments."""
        scale = self.scale
        if not self.is_enabled or scale == 0.0:
            return None
        call = args, kwargs
        rows: Tensor = argument(self._parameters, self._parameters[0], call)
        timestep = argument(self._parameters, "timestep", call)
        lent = _lent.get() if self._lendings else None  # torch.compile can look at the set alone
        if lent is not None and lent.injection is self:
            in_use = TokensInUse(lent.tokens, scale, timestep, lent.banks_B)
        else:
            banks_B, shares_B = (of(denoiser, rows.shape[0], call) for of in (self._banks, self._shares))
            in_use = TokensInUse(self._tokens_on(rows.device), scale, timestep, banks_B, shares_B)
        options = argument(self._parameters, self.options_name, call)
        sent = {**(options or {}), self._key: self._sent(in_use, rows)}
        return with_argument(self._parameters, self.options_name, sent, call)

    def _banks(self, denoiser: nn.Module, num_rows: int, call: Arguments) -> Tensor | None:
        """Return each row's bank outside of ``using``; None: psi+."""
        return None if self._banks_of is None else self._banks_of(denoiser, num_rows)

    def _shares(self, denoiser: nn.Module, num_rows: int, call: Arguments) -> Tensor | None:
        """Return each row's share of the strength outside of ``using``; None: all have it whole."""
        return None if self._shares_of is None else self._shares_of(denoiser, num_rows)

    def _sent(self, in_use: TokensInUse, rows: Tensor) -> Any:
        """Return what travels with a call: the tokens in use, or what is made of them once for all blocks."""
        return in_use

    def _tokens_on(self, device: torch.device) -> SoftTokens:
        """Return the own tokens where a call computes: offloading moves the denoiser between devices."""
        tokens = self.tokens
        if tokens.banks.device == device:
            return tokens
        if device not in self._copies:
            self._copies[device] = copy.deepcopy(tokens).to(device)
        return self._copies[device]


class CrossAttentionInjection(SoftTokenInjection):
    """Soft tokens behind the first (BOS) position of the text that chosen blocks of a U-Net attend to.

    All sites see the same tokens; other blocks see the plain text. The sites are called with
    ``encoder_hidden_states`` and ``cross_attention_kwargs``.
    """

    options_name = "cross_attention_kwargs"

    def _blocks(self, denoiser: nn.Module) -> list[nn.Module]:
        return [module for module in denoiser.modules() if getattr(module, "has_cross_attention", False) is True]

    def _hooked(self, block: nn.Module, layer: int | None) -> list[RemovableHandle]:
        return [block.register_forward_pre_hook(partial(self._insert, layer is not None), with_kwargs=True)]

    def _insert(
        self, is_site: bool, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        options = kwargs.get(self.options_name) or {}
        if self._key not in options:
            return None
        in_use: TokensInUse = options[self._key]
        kwargs = {**kwargs, self.options_name: without(self._key, options)}
        if not is_site:
            return args, kwargs
        states = kwargs["encoder_hidden_states"]
        text_BLD = states[0] if isinstance(states, tuple) else states  # a tuple: text and an IP-Adapter's image states
        tokens_BSD = drawn_tokens(in_use, text_BLD.shape[0], text_BLD.device).to(text_BLD.dtype)
        joined = _inserted(text_BLD, tokens_BSD)
        own = key_bias(in_use, text_BLD.shape[0], text_BLD.device)
        bias = _inserted_bias(kwargs.get("encoder_attention_mask"), text_BLD, tokens_BSD.shape[1], own)
        changed = (joined, *states[1:]) if isinstance(states, tuple) else joined
        return args, {**kwargs, "encoder_hidden_states": changed, "encoder_attention_mask": bias}


def without(key: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a call without what was sent along under a key."""
    return {name: value for name, value in options.items() if name != key}


def checked_scale(scale: float) -> float:
    """Return a usable scale.

    Raises:
        ConfigError: it is negative, above ``MAX_SCALE``, or not a number.
    """
    try:
        number = float(scale) if isinstance(scale, Real) and not isinstance(scale, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not 0.0 <= number <= MAX_SCALE:  # nor is NaN
        found = str(number) if isinstance(scale, Real) else repr(scale)[:100]
        raise ConfigError(
            "The scale of soft tokens is out of range.",
            expected=f"a number from 0 to {MAX_SCALE:g}",
            found=found,
            where="scale",
        )
    return number


def find_injections(denoiser: nn.Module) -> tuple[SoftTokenInjection, ...]:
    """Return the soft tokens attached to a denoiser, in the order they came."""
    owners = (getattr(hook, "__self__", None) for hook in denoiser._forward_pre_hooks.values())
    return tuple(owner for owner in owners if isinstance(owner, SoftTokenInjection))


def _free_key(denoiser: nn.Module, sites: Sequence[nn.Module], taken: Sequence[str]) -> str:
    """Return a name among a call's options, of its own for each placement.

    torch.compile looks at the names in the options, not at hooks: other sites must be another name to it.
    """
    chosen = {id(site) for site in sites}
    placement = ",".join(name for name, module in denoiser.named_modules() if id(module) in chosen)
    return next(key for number in count() if (key := f"soft_tokens_{number}:{placement}") not in taken)


def _inserted(text_BLD: Tensor, tokens_BSD: Tensor) -> Tensor:
    return torch.cat([text_BLD[:, :INSERT_AT], tokens_BSD, text_BLD[:, INSERT_AT:]], dim=1)


def _inserted_bias(mask: Tensor | None, text_BLD: Tensor, num_tokens: int, own: Tensor | float) -> Tensor | None:
    """Return the attention bias (B, 1, L + S) for the longer text; None where nothing needs one."""
    if mask is None and not isinstance(own, Tensor) and own == 0.0:
        return None
    if mask is None:
        bias = text_BLD.new_zeros(text_BLD.shape[0], 1, text_BLD.shape[1])
    elif mask.ndim == 2:  # 1 keep, 0 drop: a block called on its own; a U-Net hands its blocks a bias
        bias = ((1 - mask.to(text_BLD.dtype)) * -10000.0).unsqueeze(1)
    else:
        bias = mask
    of_tokens = bias.new_zeros((*bias.shape[:2], num_tokens))
    of_tokens = of_tokens + (own.to(bias)[:, None, None] if isinstance(own, Tensor) else own)
    return torch.cat([bias[..., :INSERT_AT], of_tokens, bias[..., INSERT_AT:]], dim=-1)
