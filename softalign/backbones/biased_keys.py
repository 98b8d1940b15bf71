"""A bias for some keys of an attention that takes no mask: it travels with the text states the keys are made of.

diffusers' joint attention has no mask for its text. So the text states that enter it become a tensor subclass that
remembers which of them are biased; what is computed of them (projections, norms, joined keys) remembers it too, and
``torch.nn.functional.scaled_dot_product_attention`` gets the bias as its mask where its keys are such a tensor. All
attention calls of a processor are reached (perturbed attention guidance makes two), calls whose keys come from
elsewhere (an IP-Adapter's) are not, and there is nothing to undo: no state beyond the tensors of the call itself.

Shape legend: B rows, L text tokens, D width, Q queries, K keys.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import get_default_nowrap_functions

from softalign.errors import CompatibilityError

_ATTENTION_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class KeyBias(NamedTuple):
    """What is added to the logits of ``num_keys`` text tokens from ``start`` on, in all rows or in each."""

    start: int
    num_keys: int
    bias: Float[Tensor, " B"] | float


class BiasedText:
    """The biased text tokens of one joint attention, and whether any attention call used them."""

    def __init__(self, text_length: int, biases: tuple[KeyBias, ...]) -> None:
        self.text_length, self.biases = text_length, biases
        self.is_used = False

    def mask(self, key: Float[Tensor, "*B K D"], mask: Shaped[Tensor, "*mask"] | None) -> Float[Tensor, "*bias"]:
        """Return the additive mask of an attention call whose last keys are the text's, and note its use."""
        self.is_used = True
        bias_B11K = key.new_zeros(max(self._num_rows(part, key) for part in self.biases), 1, 1, key.shape[-2])
        text_B11L = bias_B11K[..., key.shape[-2] - self.text_length :]
        for part in self.biases:
            bias = part.bias.to(key).view(-1, 1, 1, 1) if isinstance(part.bias, Tensor) else part.bias
            text_B11L[..., part.start : part.start + part.num_keys] = bias
        if mask is None:
            return bias_B11K
        return bias_B11K.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else bias_B11K + mask

    def _num_rows(self, part: KeyBias, key: Tensor) -> int:
        """Return how many rows a bias has: one for all, or one for each of the call's."""
        num_rows = len(part.bias) if isinstance(part.bias, Tensor) else 1
        if num_rows not in (1, key.shape[0]):
            raise CompatibilityError(
                "This attention takes the rows of a call apart, so their soft tokens cannot differ in strength.",
                expected=f"{num_rows} rows",
                found=f"{key.shape[0]} rows",
                fix="load the tokens without divide_by_guidance",
            )
        return num_rows


class BiasedTensor(Tensor):
    """A tensor made of text states with biased tokens; see the module's text."""

    biased: BiasedText

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute ``func``; attention gets the bias and gives a plain tensor, all else stays biased."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func is scaled_dot_product_attention:
                return func(**_biased_call(args, kwargs))
            result = func(*args, **kwargs)
        source = next(_biased_tensors((*args, *kwargs.values())), None)
        return (
            result if source is None or func in get_default_nowrap_functions() else _all_biased(result, source.biased)
        )


def biased_text(text_BLD: Float[Tensor, "B L D"], bias: KeyBias) -> Float[Tensor, "B L D"]:
    """Return text states that bias the attention to some of them, besides what they bias already."""
    before = text_BLD.biased.biases if isinstance(text_BLD, BiasedTensor) else ()
    return _as_biased(text_BLD, BiasedText(text_BLD.shape[1], (*before, bias)))


def _as_biased(tensor: Tensor, biased: BiasedText) -> BiasedTensor:
    result: BiasedTensor = tensor.as_subclass(BiasedTensor)
    result.biased = biased
    return result


def _all_biased(result: Any, biased: BiasedText) -> Any:
    if isinstance(result, (tuple, list)):  # of a chunk or a split
        return type(result)(_all_biased(part, biased) for part in result)
    return _as_biased(result, biased) if type(result) is Tensor else result


def _biased_tensors(values: Any) -> Any:
    for value in values:
        if isinstance(value, BiasedTensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _biased_tensors(value)


def _biased_call(args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    call = {**dict(zip(_ATTENTION_ARGUMENTS, args, strict=False)), **kwargs}
    key = call["key"]
    if isinstance(key, BiasedTensor):
        call["attn_mask"] = key.biased.mask(key, call.get("attn_mask"))
    return call
