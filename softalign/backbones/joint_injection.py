"""Soft tokens in the joint attention of an MMDiT: each of the first blocks has its own.

A pre-hook appends a layer's tokens to the text stream of its block, a hook takes them off the block's text output, so
the next block sees none of them. The text stream has no positions: appending and prepending are one function.

Scale (see ``injection``): diffusers' joint attention takes no mask, so where the scale is neither 0 nor 1 the bias
log(s) of the inserted keys is handed to ``torch.nn.functional.scaled_dot_product_attention`` itself, by a torch
function mode that lasts for one call of one block's joint attention.

Shape legend: B rows, L text tokens, N layers, S soft tokens, D width, Q queries, K keys.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from softalign.backbones.injection import SoftTokenInjection
from softalign.errors import CompatibilityError
from softalign.method.soft_tokens import POSITIVE_BANK

TEXT_PLACE = 1
"""Place of ``encoder_hidden_states`` among a joint block's arguments (gradient checkpointing passes them by place)."""
_ATTENTION_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class JointAttentionInjection(SoftTokenInjection):
    """Soft tokens at the end of the text stream of an MMDiT's first blocks, each layer's in its own block.

    The sites are joint blocks of diffusers: ``(hidden_states, encoder_hidden_states, ...)`` in, text (None after the
    last block) and image states out.
    """

    timestep_place = 3

    _drawn_BNSD: Float[Tensor, "B N S D"] | None = None
    _bias: _InsertedKeyBias | None = None
    _is_skipping = False

    def _hooked(self, site: nn.Module, layer: int) -> list[RemovableHandle]:
        attention: Any = site.attn
        return [
            site.register_forward_pre_hook(partial(self._append, layer), with_kwargs=True),
            site.register_forward_hook(self._take_off),
            attention.register_forward_pre_hook(self._enter_bias),
            attention.register_forward_hook(self._leave_bias, always_call=True),
        ]

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super()._begin(module, args, kwargs)
        self._drawn_BNSD = None
        self._is_skipping = kwargs.get("skip_layers") is not None

    def _inference_banks(self, num_rows: int, device: torch.device) -> Tensor:
        """Return each row's bank; the pipeline's extra call for skip-layer guidance has conditional rows alone."""
        if self._is_skipping:
            return torch.full((num_rows,), POSITIVE_BANK, dtype=torch.int64, device=device)
        return super()._inference_banks(num_rows, device)

    def _append(
        self, layer: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self.is_active:
            return None
        is_named = "encoder_hidden_states" in kwargs
        text_BLD: Tensor = kwargs["encoder_hidden_states"] if is_named else args[TEXT_PLACE]
        if self._drawn_BNSD is None:  # once per call of the denoiser, for all layers
            self._drawn_BNSD = self._tokens_for(text_BLD.shape[0], text_BLD.device)
        joined = torch.cat([text_BLD, self._drawn_BNSD[:, layer].to(text_BLD)], dim=1)
        if is_named:
            return args, {**kwargs, "encoder_hidden_states": joined}
        return (*args[:TEXT_PLACE], joined, *args[TEXT_PLACE + 1 :]), kwargs

    def _take_off(self, _module: nn.Module, _args: tuple[Any, ...], output: tuple[Tensor | None, Tensor]) -> Any:
        text_BLD, image = output
        if not self.is_active or text_BLD is None:
            return None
        return text_BLD[:, : -self.tokens.num_soft_tokens], image

    def _enter_bias(self, _attention: nn.Module, _args: tuple[Any, ...]) -> None:
        if self.is_active and self.scale != 1.0:
            self._bias = _InsertedKeyBias(self.tokens.num_soft_tokens, math.log(self.scale))
            self._bias.__enter__()  # type: ignore[no-untyped-call]

    def _leave_bias(self, attention: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """Runs after a failed call as well: ``output`` is None then."""
        bias, self._bias = self._bias, None
        if bias is None:
            return
        bias.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if output is not None and not bias.is_used:
            raise CompatibilityError(
                "The strength of soft tokens cannot be changed with this attention processor.",
                expected="a processor that calls torch's scaled_dot_product_attention",
                found=type(getattr(attention, "processor", None)).__name__,
                fix="use scale 1 or 0, or set diffusers' JointAttnProcessor2_0",
            )


class _InsertedKeyBias(TorchFunctionMode):
    """While entered, adds a bias to the logits of the last S keys, in the first attention call alone.

    A processor's further calls (an IP-Adapter's) attend to other keys.
    """

    def __init__(self, num_tokens: int, bias: float) -> None:
        super().__init__()
        self._num_tokens, self._bias = num_tokens, bias
        self.is_used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention or self.is_used:
            return func(*args, **(kwargs or {}))
        self.is_used = True
        call = {**dict(zip(_ATTENTION_ARGUMENTS, args, strict=False)), **(kwargs or {})}
        bias_11QK = call["key"].new_zeros(1, 1, 1, call["key"].shape[-2])
        bias_11QK[..., -self._num_tokens :] = self._bias
        mask = call.get("attn_mask")
        if mask is not None:
            is_kept = mask.dtype == torch.bool
            bias_11QK = bias_11QK.masked_fill(~mask, -math.inf) if is_kept else bias_11QK + mask
        return func(**{**call, "attn_mask": bias_11QK})
