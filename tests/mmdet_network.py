"""mmdet 2's Mask2Former with a Swin backbone as names and shapes of its weights, written down from its definition."""

import numpy as np
import torch

NUM_CLASSES = 80


def weighted(names, prefix, out, *inside):
    names[f"{prefix}.weight"] = (out, *inside)
    names[f"{prefix}.bias"] = (out,)


def mmdet_shapes(
    width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24), window=7, channels=256, encoder_ffn=1024, ffn=2048,
    encoder_layers=6, decoder_layers=9, queries=100, attention_heads=8,
):  # fmt: skip
    """Return the shape of each weight by its name; the defaults are the official checkpoint's."""
    names = {}
    weighted(names, "backbone.patch_embed.projection", width, 3, 4, 4)
    weighted(names, "backbone.patch_embed.norm", width)
    for stage, depth in enumerate(depths):
        size = width * 2**stage
        for block in range(depth):
            at = f"backbone.stages.{stage}.blocks.{block}"
            weighted(names, f"{at}.norm1", size)
            names[f"{at}.attn.w_msa.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads[stage])
            names[f"{at}.attn.w_msa.relative_position_index"] = (window**2, window**2)
            weighted(names, f"{at}.attn.w_msa.qkv", 3 * size, size)
            weighted(names, f"{at}.attn.w_msa.proj", size, size)
            weighted(names, f"{at}.norm2", size)
            weighted(names, f"{at}.ffn.layers.0.0", 4 * size, size)
            weighted(names, f"{at}.ffn.layers.1", size, 4 * size)
        if stage < 3:
            weighted(names, f"backbone.stages.{stage}.downsample.norm", 4 * size)
            names[f"backbone.stages.{stage}.downsample.reduction.weight"] = (2 * size, 4 * size)
        weighted(names, f"backbone.norm{stage}", size)
    at = "panoptic_head.pixel_decoder"
    for level, stage in enumerate((3, 2, 1)):
        weighted(names, f"{at}.input_convs.{level}.conv", channels, width * 2**stage, 1, 1)
        weighted(names, f"{at}.input_convs.{level}.gn", channels)
    for layer in range(encoder_layers):
        inner = f"{at}.encoder.layers.{layer}"
        weighted(names, f"{inner}.attentions.0.sampling_offsets", attention_heads * 3 * 4 * 2, channels)
        weighted(names, f"{inner}.attentions.0.attention_weights", attention_heads * 3 * 4, channels)
        weighted(names, f"{inner}.attentions.0.value_proj", channels, channels)
        weighted(names, f"{inner}.attentions.0.output_proj", channels, channels)
        weighted(names, f"{inner}.ffns.0.layers.0.0", encoder_ffn, channels)
        weighted(names, f"{inner}.ffns.0.layers.1", channels, encoder_ffn)
        weighted(names, f"{inner}.norms.0", channels)
        weighted(names, f"{inner}.norms.1", channels)
    names[f"{at}.level_encoding.weight"] = (3, channels)
    names[f"{at}.lateral_convs.0.conv.weight"] = (channels, width, 1, 1)
    weighted(names, f"{at}.lateral_convs.0.gn", channels)
    names[f"{at}.output_convs.0.conv.weight"] = (channels, channels, 3, 3)
    weighted(names, f"{at}.output_convs.0.gn", channels)
    weighted(names, f"{at}.mask_feature", channels, channels, 1, 1)
    head = "panoptic_head"
    for layer in range(decoder_layers):
        inner = f"{head}.transformer_decoder.layers.{layer}"
        for which in range(2):
            names[f"{inner}.attentions.{which}.attn.in_proj_weight"] = (3 * channels, channels)
            names[f"{inner}.attentions.{which}.attn.in_proj_bias"] = (3 * channels,)
            weighted(names, f"{inner}.attentions.{which}.attn.out_proj", channels, channels)
        weighted(names, f"{inner}.ffns.0.layers.0.0", ffn, channels)
        weighted(names, f"{inner}.ffns.0.layers.1", channels, ffn)
        for which in range(3):
            weighted(names, f"{inner}.norms.{which}", channels)
    weighted(names, f"{head}.transformer_decoder.post_norm", channels)
    names[f"{head}.query_embed.weight"] = (queries, channels)
    names[f"{head}.query_feat.weight"] = (queries, channels)
    names[f"{head}.level_embed.weight"] = (3, channels)
    weighted(names, f"{head}.cls_embed", NUM_CLASSES + 1, channels)
    for place in (0, 2, 4):
        weighted(names, f"{head}.mask_embed.{place}", channels, channels)
    return names


TINY = dict(
    width=8, depths=(2, 1, 1, 1), heads=(1, 2, 4, 8), channels=32, encoder_ffn=48, ffn=40, encoder_layers=2,
    decoder_layers=2, queries=12, attention_heads=4,
)  # fmt: skip


def random_state(seed=0, **sizes):
    """Return random weights under mmdet's names; norms are near 1, so that activations keep their size."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in mmdet_shapes(**sizes).items():
        if name.endswith("relative_position_index"):
            state[name] = position_index(int(np.sqrt(shape[0])))
            continue
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 25
        state[name] = torch.randn(shape, generator=generator) / fan_in**0.5
        if len(shape) == 1 and name.endswith("weight"):
            state[name] += 1
    return state


def position_index(window):
    """Return mmdet's table of relative positions: row and column steps added, read from the end."""
    rows, columns = torch.arange(window) * (2 * window - 1), torch.arange(window)
    steps = (rows[:, None] + columns).reshape(1, -1)
    return (steps + steps.T).flip(1)
