"""Soft tokens in the joint attention of an MMDiT: each of the first blocks has its own.

A pre-hook appends a layer's tokens to the text stream of its block, a hook takes them off the block's text output, so
the next block sees none of them. The text stream has no positions: appending and prepending are one function.

Scale (see ``injection``): where it is neither 0 nor 1, the bias log(s) of the inserted keys travels with the text into
the block's joint attention (``biased_keys``).

Shape legend: B rows, L text tokens, N layers, S soft tokens, D width.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from softalign.backbones.biased_keys import BiasedTensor, KeyBias, biased_text
from softalign.backbones.calls import Arguments, TokensInUse, argument, drawn_tokens, key_bias, with_argument
from softalign.backbones.injection import SoftTokenInjection, without
from softalign.errors import CompatibilityError

JOINT_BLOCK = ("hidden_states", "encoder_hidden_states", "temb", "joint_attention_kwargs")
"""What a joint block takes (gradient checkpointing passes it by place)."""


class _Drawn(NamedTuple):
    """All layers' tokens of one call of the denoiser, and the bias of their keys."""

    tokens_BNSD: Float[Tensor, "B N S D"]
    bias: Float[Tensor, " B"] | float


class JointAttentionInjection(SoftTokenInjection):
    """Soft tokens at the end of the text stream of an MMDiT's first blocks, each layer's in its own block.

    The sites are joint blocks of diffusers: ``(hidden_states, encoder_hidden_states, ...)`` in, text (None after the
    last block) and image states out.
    """

    options_name = "joint_attention_kwargs"

    def _blocks(self, denoiser: nn.Module) -> list[nn.Module]:
        return list(denoiser.transformer_blocks)  # type: ignore[arg-type]

    def _hooked(self, block: nn.Module, layer: int | None) -> list[RemovableHandle]:
        if layer is None:
            return [block.register_forward_pre_hook(self._pass, with_kwargs=True)]
        attention, second = block.attn, getattr(block, "attn2", None)
        handles = [
            block.register_forward_pre_hook(partial(self._append, layer), with_kwargs=True),
            block.register_forward_hook(self._take_off, with_kwargs=True),
            attention.register_forward_pre_hook(self._bias, with_kwargs=True),  # type: ignore[union-attr]
            attention.register_forward_hook(self._check_bias, with_kwargs=True),  # type: ignore[union-attr]
        ]
        if isinstance(second, nn.Module):  # of SD3.5: image states alone
            handles.append(second.register_forward_pre_hook(self._bias, with_kwargs=True))
        return handles

    def _banks(self, denoiser: nn.Module, num_rows: int, call: Arguments) -> Tensor | None:
        """Return each row's bank; the pipeline's extra call for skip-layer guidance has conditional rows alone."""
        is_skipping = argument(self._parameters, "skip_layers", call) is not None
        return None if is_skipping else super()._banks(denoiser, num_rows, call)

    def _shares(self, denoiser: nn.Module, num_rows: int, call: Arguments) -> Tensor | None:
        """Return each row's share of the strength; the rows of that extra call are the conditional ones again."""
        if argument(self._parameters, "skip_layers", call) is None:
            return super()._shares(denoiser, num_rows, call)
        both = super()._shares(denoiser, 2 * num_rows, call)
        return None if both is None else both[num_rows:]

    def _sent(self, in_use: TokensInUse, rows: Tensor) -> _Drawn:
        """Draw once per call of the denoiser, for all layers."""
        call = in_use, rows.shape[0], rows.device
        return _Drawn(drawn_tokens(*call), key_bias(*call))

    def _pass(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        call = args, kwargs
        options = argument(JOINT_BLOCK, self.options_name, call) or {}
        if self._key not in options:
            return None
        return with_argument(JOINT_BLOCK, self.options_name, without(self._key, options), call)

    def _append(
        self, layer: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        call = args, kwargs
        options = argument(JOINT_BLOCK, self.options_name, call) or {}
        if self._key not in options:
            return None
        drawn: _Drawn = options[self._key]
        text_BLD: Tensor = argument(JOINT_BLOCK, "encoder_hidden_states", call)
        tokens_BSD = drawn.tokens_BNSD[:, layer].to(text_BLD)
        inserted = KeyBias(text_BLD.shape[1], tokens_BSD.shape[1], drawn.bias)
        call = with_argument(JOINT_BLOCK, "encoder_hidden_states", torch.cat([text_BLD, tokens_BSD], dim=1), call)
        return with_argument(JOINT_BLOCK, self.options_name, {**options, self._key: inserted}, call)

    def _take_off(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Tensor | None, Tensor]
    ) -> tuple[Tensor | None, Tensor] | None:
        options = argument(JOINT_BLOCK, self.options_name, (args, kwargs)) or {}
        text_BLD, image = output
        if self._key not in options or text_BLD is None:
            return None
        return text_BLD[:, : -options[self._key].num_keys], image

    def _bias(self, _attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Take what was sent out of the attention's options, and bias its text where the scale asks for it."""
        if self._key not in kwargs:
            return None
        inserted: KeyBias = kwargs[self._key]
        kwargs = without(self._key, kwargs)
        is_biased = isinstance(inserted.bias, Tensor) or inserted.bias != 0.0
        if is_biased and kwargs.get("encoder_hidden_states") is not None:
            kwargs["encoder_hidden_states"] = biased_text(kwargs["encoder_hidden_states"], inserted)
        return args, kwargs

    def _check_bias(self, attention: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
        text = kwargs.get("encoder_hidden_states")
        if isinstance(text, BiasedTensor) and not text.biased.is_used:
            raise CompatibilityError(
                "The strength of soft tokens cannot be changed with this attention processor.",
                expected="a processor that calls torch's scaled_dot_product_attention",
                found=type(getattr(attention, "processor", None)).__name__,
                fix="use scale 1 or 0, or set diffusers' JointAttnProcessor2_0",
            )
