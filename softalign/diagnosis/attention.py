"""The attention that soft tokens draw: shares of the softmax weights, read while the denoiser runs.

diffusers' attention never forms its weights, so its calls of ``scaled_dot_product_attention`` are watched by a function
mode, and the weights of these queries and keys are formed beside, some queries at a time. Nothing of the denoiser
changes.

Shape legend: B rows, A heads, Q queries, K keys, D width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from softalign.adapters.files import MMDiTPlacement, Placement
from softalign.backbones.injection import INSERT_AT
from softalign.backbones.mmdit import joint_blocks
from softalign.backbones.unet import injection_sites
from softalign.errors import CompatibilityError

MAX_WEIGHTS = 1 << 26
"""Attention weights that are formed at once: 256 MB of float32."""
_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")


@dataclass(frozen=True, eq=False)
class WatchedAttention:
    """An attention that sees soft tokens: in which block, and where they stand in its text."""

    block: str
    module: nn.Module
    is_appended: bool


@dataclass(frozen=True, eq=False)
class TokenShares:
    """Each row's shares, the mean over heads and image queries; see ``AttentionShare``."""

    tokens_B: Float[Tensor, " B"]
    first_position_B: Float[Tensor, " B"]
    text_B: Float[Tensor, " B"]
    even: float


def watched_attentions(denoiser: nn.Module, placement: Placement) -> tuple[WatchedAttention, ...]:
    """Return the attentions of a denoiser that see the tokens of a placement, in the order of its modules."""
    if isinstance(placement, MMDiTPlacement):
        joint: list[Any] = list(joint_blocks(denoiser, placement.num_layers, placement.layers))
        return tuple(WatchedAttention(_name(denoiser, site), site.attn, True) for site in joint)
    return tuple(
        WatchedAttention(_name(denoiser, site), module, False)
        for site in injection_sites(denoiser, placement.blocks)
        for name, module in site.named_modules()
        if name.rpartition(".")[2] == "attn2"
    )


class AttentionWatch(TorchFunctionMode):
    """Collects shares from the calls inside ``watching``; ``found`` has each block's, one entry a call.

    Args:
        attentions: which.
        num_tokens: soft tokens in each one's text.
    """

    def __init__(self, attentions: tuple[WatchedAttention, ...], num_tokens: int) -> None:
        super().__init__()
        self.found: dict[str, list[TokenShares]] = {}
        self._attentions, self._num_tokens = attentions, num_tokens
        self._running: tuple[WatchedAttention, int] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the calls of the denoiser inside.

        Raises:
            CompatibilityError: an attention ran without a call that could be watched.
        """
        before = {name: len(shares) for name, shares in self.found.items()}
        handles = [
            handle
            for attention in self._attentions
            for handle in (
                attention.module.register_forward_pre_hook(partial(self._enter, attention), with_kwargs=True),
                attention.module.register_forward_hook(self._leave),
            )
        ]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()
        for attention in self._attentions:
            if len(self.found.get(attention.block, ())) == before.get(attention.block, 0):
                raise CompatibilityError(
                    "The attention of this model cannot be watched.",
                    expected="a processor that calls torch's scaled_dot_product_attention",
                    found=type(getattr(attention.module, "processor", None)).__name__,
                    where=attention.block,
                )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute ``func``, after the weights of a watched attention were read."""
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and self._running is not None:
            attention, text_length = self._running
            call = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            self.found.setdefault(attention.block, []).append(self._shares(attention, text_length, call))
        return func(*args, **kwargs)

    def _enter(self, attention: WatchedAttention, _module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        self._running = attention, kwargs["encoder_hidden_states"].shape[1]

    def _leave(self, *_call: Any) -> None:
        self._running = None

    @torch.no_grad()
    def _shares(self, attention: WatchedAttention, text_length: int, call: dict[str, Any]) -> TokenShares:
        key: Tensor = call["key"].float()
        num_keys = key.shape[-2]
        first = num_keys - text_length  # the text's keys come last
        own = num_keys - self._num_tokens if attention.is_appended else first + INSERT_AT
        query: Tensor = call["query"]
        num_queries = query.shape[-2] - (text_length if attention.is_appended else 0)  # the image's come first
        scale = call.get("scale") or 1.0 / math.sqrt(query.shape[-1])
        rows_at_once = max(1, MAX_WEIGHTS // (key.shape[0] * key.shape[1] * num_keys))
        sums = key.new_zeros(3, key.shape[0])
        for start in range(0, num_queries, rows_at_once):
            stop = min(start + rows_at_once, num_queries)
            logits_BAQK = scale * query[..., start:stop, :].float() @ key.transpose(-1, -2)
            weights_BAQK = (logits_BAQK + _bias(call.get("attn_mask"), slice(start, stop))).softmax(dim=-1)
            parts = (slice(own, own + self._num_tokens), slice(first, first + 1), slice(first, None))
            sums += torch.stack([weights_BAQK[..., part].sum(dim=-1).mean(dim=1).sum(dim=-1) for part in parts])
        tokens_B, first_B, text_B = (sums / num_queries).cpu()
        return TokenShares(tokens_B, first_B, text_B, self._num_tokens / num_keys)


def _bias(mask: Tensor | None, queries: slice) -> Tensor | float:
    if mask is None:
        return 0.0
    own = mask if mask.shape[-2] == 1 else mask[..., queries, :]
    return torch.zeros_like(own, dtype=torch.float32).masked_fill(~own, -math.inf) if own.dtype == torch.bool else own


def _name(denoiser: nn.Module, site: nn.Module) -> str:
    names: dict[int, str] = {id(module): name for name, module in denoiser.named_modules()}
    return names[id(site)]
