"""The sizes of a Mask2Former, read off the shapes of its weights in mmdet's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from math import isqrt
from typing import Any

import torch

from softalign.errors import CompatibilityError
from softalign.geneval.labels import COCO_ALIASES
from softalign.geneval.prompts import CLASSES

_NUM_LEVELS, _NUM_POINTS = 3, 4
"""Of the deformable attention: fixed in transformers' model, as in the official configuration."""
_HEAD = "panoptic_head"
_COCO_NAMES = {name: coco for coco, name in COCO_ALIASES.items()}


def configuration_of(state: Mapping[str, torch.Tensor]) -> Any:
    """Return the ``Mask2FormerConfig`` of a network with weights of these shapes.

    Raises:
        CompatibilityError: a weight is not there, or the network has other classes than COCO's 80.
    """
    from transformers import Mask2FormerConfig, SwinConfig

    shape = partial(_shape, state)
    depths = [_count(state, rf"backbone\.stages\.{stage}\.blocks") for stage in range(4)]
    first_blocks = [f"backbone.stages.{stage}.blocks.0" for stage in range(4)]
    bias_tables = [shape(f"{block}.attn.w_msa.relative_position_bias_table") for block in first_blocks]
    width, _, patch_px, _ = shape("backbone.patch_embed.projection.weight")
    swin = SwinConfig(
        embed_dim=width,
        depths=depths,
        num_heads=[heads for _, heads in bias_tables],
        window_size=(isqrt(bias_tables[0][0]) + 1) // 2,
        mlp_ratio=shape("backbone.stages.0.blocks.0.ffn.layers.0.0.weight")[0] / width,
        patch_size=patch_px,
        out_features=[f"stage{stage + 1}" for stage in range(4)],
    )
    num_outputs, hidden = shape(f"{_HEAD}.cls_embed.weight")
    _require_classes(num_outputs - 1)
    pixel = f"{_HEAD}.pixel_decoder"
    return Mask2FormerConfig(
        backbone_config=swin,
        feature_size=shape(f"{pixel}.level_encoding.weight")[1],
        mask_feature_size=shape(f"{pixel}.mask_feature.weight")[0],
        hidden_dim=hidden,
        encoder_feedforward_dim=shape(f"{pixel}.encoder.layers.0.ffns.0.layers.0.0.weight")[0],
        encoder_layers=_count(state, rf"{_HEAD}\.pixel_decoder\.encoder\.layers"),
        # transformers counts the queries' first prediction, before any layer, as one
        decoder_layers=_count(state, rf"{_HEAD}\.transformer_decoder\.layers") + 1,
        num_attention_heads=shape(f"{pixel}.encoder.layers.0.attentions.0.attention_weights.weight")[0]
        // (_NUM_LEVELS * _NUM_POINTS),
        dim_feedforward=shape(f"{_HEAD}.transformer_decoder.layers.0.ffns.0.layers.0.0.weight")[0],
        num_queries=shape(f"{_HEAD}.query_feat.weight")[0],
        id2label={index: _COCO_NAMES.get(name, name) for index, name in enumerate(CLASSES)},
    )


def _shape(state: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    if name not in state:
        raise CompatibilityError(
            "The checkpoint is not of a Mask2Former with a Swin backbone.",
            expected="the weights of mmdet's mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco",
            found=f"no {name} among {len(state)} weights",
            fix="convert that checkpoint",
        )
    return tuple(state[name].shape)


def _count(state: Mapping[str, torch.Tensor], folder: str) -> int:
    """Return how many numbered parts stand below a name."""
    return len({match[1] for name in state if (match := re.match(rf"{folder}\.(\d+)\.", name))})


def _require_classes(num_classes: int) -> None:
    if num_classes != len(CLASSES):
        raise CompatibilityError(
            "The checkpoint's classes are not those that GenEval asks for.",
            expected="COCO's 80 objects",
            found=f"{num_classes} classes",
            fix="convert the checkpoint that was trained on COCO's instances, not the panoptic one",
        )
