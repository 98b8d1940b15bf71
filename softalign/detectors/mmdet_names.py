"""Where each weight of mmdet's Mask2Former with a Swin backbone stands in transformers' model of the same network.

Most have another name alone. A Swin block's ``qkv`` and a decoder layer's self-attention are one matrix there and three
here, and Swin's patch merging lines the four merged patches up in another order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Shaped

from softalign.errors import CompatibilityError

Tensors = Mapping[str, torch.Tensor]
_ENCODER = "model.pixel_level_module.encoder"
_PIXEL_DECODER = "model.pixel_level_module.decoder"
_DECODER = "model.transformer_module.decoder"


def unmerged_order(weight: Shaped[torch.Tensor, "... 4C"]) -> Shaped[torch.Tensor, "... 4C"]:
    """Return weights over mmdet's merged patches in transformers' order of the last axis.

    mmdet merges by channel, row and column (``unfold``); transformers by column, row and channel.
    """
    by_place = weight.reshape(*weight.shape[:-1], -1, 2, 2)  # channel, row, column
    return by_place.transpose(-1, -3).flatten(-3)  # column, row, channel


def _as_it_is(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (tensor,)


def _in_three(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(part.contiguous() for part in tensor.chunk(3, dim=0))


def _reordered(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (unmerged_order(tensor).contiguous(),)


@dataclass(frozen=True, slots=True)
class _Rule:
    """Names of mmdet, as a pattern, and where their weights go."""

    pattern: str
    targets: tuple[str, ...]
    change: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] = _as_it_is


_BLOCK = r"backbone\.stages\.(\d+)\.blocks\.(\d+)"
_TO_BLOCK = rf"{_ENCODER}.swin.encoder.layers.\1.blocks.\2"
_MERGE = r"backbone\.stages\.(\d+)\.downsample"
_PIXEL = r"panoptic_head\.pixel_decoder"
_PIXEL_LAYER = rf"{_PIXEL}\.encoder\.layers\.(\d+)"
_TO_PIXEL_LAYER = rf"{_PIXEL_DECODER}.encoder.layers.\1"
_LAYER = r"panoptic_head\.transformer_decoder\.layers\.(\d+)"
_TO_LAYER = rf"{_DECODER}.layers.\1"
_W = r"(weight|bias)"
_QKV = ("q_proj", "k_proj", "v_proj")
_RULES = (
    _Rule(
        rf"backbone\.patch_embed\.projection\.{_W}", (rf"{_ENCODER}.swin.embeddings.patch_embeddings.projection.\1",)
    ),
    _Rule(rf"backbone\.patch_embed\.norm\.{_W}", (rf"{_ENCODER}.swin.embeddings.norm.\1",)),
    _Rule(rf"{_BLOCK}\.norm1\.{_W}", (rf"{_TO_BLOCK}.layernorm_before.\3",)),
    _Rule(rf"{_BLOCK}\.norm2\.{_W}", (rf"{_TO_BLOCK}.layernorm_after.\3",)),
    _Rule(
        rf"{_BLOCK}\.attn\.w_msa\.relative_position_bias_table",
        (rf"{_TO_BLOCK}.attention.relative_position_bias.relative_position_bias_table",),
    ),
    _Rule(rf"{_BLOCK}\.attn\.w_msa\.qkv\.{_W}", tuple(rf"{_TO_BLOCK}.attention.{p}.\3" for p in _QKV), _in_three),
    _Rule(rf"{_BLOCK}\.attn\.w_msa\.proj\.{_W}", (rf"{_TO_BLOCK}.attention.o_proj.\3",)),
    _Rule(rf"{_BLOCK}\.ffn\.layers\.0\.0\.{_W}", (rf"{_TO_BLOCK}.mlp.fc1.\3",)),
    _Rule(rf"{_BLOCK}\.ffn\.layers\.1\.{_W}", (rf"{_TO_BLOCK}.mlp.fc2.\3",)),
    _Rule(rf"{_MERGE}\.(norm|reduction)\.{_W}", (rf"{_ENCODER}.swin.encoder.layers.\1.downsample.\2.\3",), _reordered),
    *(_Rule(rf"backbone\.norm{i}\.{_W}", (rf"{_ENCODER}.hidden_states_norms.stage{i + 1}.\1",)) for i in range(4)),
    _Rule(rf"{_PIXEL}\.input_convs\.(\d+)\.conv\.{_W}", (rf"{_PIXEL_DECODER}.input_projections.\1.0.\2",)),
    _Rule(rf"{_PIXEL}\.input_convs\.(\d+)\.gn\.{_W}", (rf"{_PIXEL_DECODER}.input_projections.\1.1.\2",)),
    _Rule(rf"{_PIXEL_LAYER}\.attentions\.0\.(\w+)\.{_W}", (rf"{_TO_PIXEL_LAYER}.self_attn.\2.\3",)),
    _Rule(rf"{_PIXEL_LAYER}\.ffns\.0\.layers\.0\.0\.{_W}", (rf"{_TO_PIXEL_LAYER}.fc1.\2",)),
    _Rule(rf"{_PIXEL_LAYER}\.ffns\.0\.layers\.1\.{_W}", (rf"{_TO_PIXEL_LAYER}.fc2.\2",)),
    _Rule(rf"{_PIXEL_LAYER}\.norms\.0\.{_W}", (rf"{_TO_PIXEL_LAYER}.self_attn_layer_norm.\2",)),
    _Rule(rf"{_PIXEL_LAYER}\.norms\.1\.{_W}", (rf"{_TO_PIXEL_LAYER}.final_layer_norm.\2",)),
    _Rule(rf"{_PIXEL}\.level_encoding\.weight", (f"{_PIXEL_DECODER}.level_embed",)),
    _Rule(rf"{_PIXEL}\.lateral_convs\.0\.conv\.weight", (f"{_PIXEL_DECODER}.adapter_1.0.weight",)),
    _Rule(rf"{_PIXEL}\.lateral_convs\.0\.gn\.{_W}", (rf"{_PIXEL_DECODER}.adapter_1.1.\1",)),
    _Rule(rf"{_PIXEL}\.output_convs\.0\.conv\.weight", (f"{_PIXEL_DECODER}.layer_1.0.weight",)),
    _Rule(rf"{_PIXEL}\.output_convs\.0\.gn\.{_W}", (rf"{_PIXEL_DECODER}.layer_1.1.\1",)),
    _Rule(rf"{_PIXEL}\.mask_feature\.{_W}", (rf"{_PIXEL_DECODER}.mask_projection.\1",)),
    _Rule(r"panoptic_head\.query_embed\.weight", ("model.transformer_module.queries_embedder.weight",)),
    _Rule(r"panoptic_head\.query_feat\.weight", ("model.transformer_module.queries_features.weight",)),
    _Rule(r"panoptic_head\.level_embed\.weight", ("model.transformer_module.level_embed.weight",)),
    _Rule(rf"{_LAYER}\.attentions\.0\.attn\.in_proj_{_W}", (rf"{_TO_LAYER}.cross_attn.in_proj_\2",)),
    _Rule(rf"{_LAYER}\.attentions\.0\.attn\.out_proj\.{_W}", (rf"{_TO_LAYER}.cross_attn.out_proj.\2",)),
    _Rule(
        rf"{_LAYER}\.attentions\.1\.attn\.in_proj_{_W}",
        tuple(rf"{_TO_LAYER}.self_attn.{p}.\2" for p in _QKV),
        _in_three,
    ),
    _Rule(rf"{_LAYER}\.attentions\.1\.attn\.out_proj\.{_W}", (rf"{_TO_LAYER}.self_attn.out_proj.\2",)),
    _Rule(rf"{_LAYER}\.ffns\.0\.layers\.0\.0\.{_W}", (rf"{_TO_LAYER}.fc1.\2",)),
    _Rule(rf"{_LAYER}\.ffns\.0\.layers\.1\.{_W}", (rf"{_TO_LAYER}.fc2.\2",)),
    _Rule(rf"{_LAYER}\.norms\.0\.{_W}", (rf"{_TO_LAYER}.cross_attn_layer_norm.\2",)),
    _Rule(rf"{_LAYER}\.norms\.1\.{_W}", (rf"{_TO_LAYER}.self_attn_layer_norm.\2",)),
    _Rule(rf"{_LAYER}\.norms\.2\.{_W}", (rf"{_TO_LAYER}.final_layer_norm.\2",)),
    _Rule(rf"panoptic_head\.transformer_decoder\.post_norm\.{_W}", (rf"{_DECODER}.layernorm.\1",)),
    *(
        _Rule(rf"panoptic_head\.mask_embed\.{2 * i}\.{_W}", (rf"{_DECODER}.mask_predictor.mask_embedder.{i}.0.\1",))
        for i in range(3)
    ),
    _Rule(rf"panoptic_head\.cls_embed\.{_W}", (r"class_predictor.\1",)),
)
RECOMPUTED = r"backbone\.stages\.\d+\.blocks\.\d+\.attn\.w_msa\.relative_position_index"
"""A table that follows from the window's size; transformers makes it anew."""
UNUSED = (f"{_ENCODER}.swin.layernorm.weight", f"{_ENCODER}.swin.layernorm.bias", "criterion.empty_weight")
"""Of transformers' model, not of the network: a norm after the last stage that nothing reads, the loss's weights."""


def to_transformers_names(state: Tensors) -> dict[str, torch.Tensor]:
    """Return mmdet's weights under transformers' names.

    Raises:
        CompatibilityError: a weight that is not of this network.
    """
    placed: dict[str, torch.Tensor] = {}
    strange = []
    for name, tensor in state.items():
        if re.fullmatch(RECOMPUTED, name):
            continue
        found = [(rule, match) for rule in _RULES if (match := re.fullmatch(rule.pattern, name))]
        if len(found) != 1:
            strange.append(name)
            continue
        [(rule, match)] = found
        targets = [match.expand(target) for target in rule.targets]
        placed.update(zip(targets, rule.change(tensor), strict=True))
    if strange:
        raise CompatibilityError(
            "The checkpoint has weights that are not of this network.",
            expected="mmdet's Mask2Former with a Swin backbone",
            found=f"{len(strange)} others: {', '.join(strange[:3])}",
            fix="convert the checkpoint mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco of mmdet 2",
        )
    return placed
