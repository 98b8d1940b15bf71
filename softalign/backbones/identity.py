"""Which frozen model it is: digests of what its components compute."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from softalign.artifacts import canonical_json, digest_of
from softalign.backbones.base import Backbone

FUNCTION_FIELDS = (
    *("hidden_act", "num_attention_heads", "layer_norm_eps", "eos_token_id"),  # CLIP, which pools at the end token
    *("num_heads", "d_kv", "feed_forward_proj", "layer_norm_epsilon", "relative_attention_max_distance"),  # T5
    *("scaling_factor", "shift_factor", "latents_mean", "latents_std"),  # VAE
    *("act_fn", "norm_num_groups", "norm_eps", "attention_head_dim", "cross_attention_norm", "attention_type"),
    *("down_block_types", "mid_block_type", "up_block_types", "downsample_padding", "mid_block_scale_factor"),
    *("only_cross_attention", "mid_block_only_cross_attention", "dual_cross_attention", "center_input_sample"),
    *("resnet_time_scale_shift", "resnet_out_scale_factor", "resnet_skip_time_act", "flip_sin_to_cos", "freq_shift"),
    *("time_embedding_type", "time_embedding_act_fn", "timestep_post_act", "addition_embed_type"),
    *("addition_time_embed_dim", "class_embed_type", "encoder_hid_dim_type", "qk_norm", "dual_attention_layers"),
)
"""What configurations say of a component's function that the names and shapes of its weights do not.

Named one by one: libraries add fields with every version, and keep there how a model was last called.
"""


def text_length(backbone: Backbone) -> int:
    """Return how many positions a backbone's text states have: CLIP's, and for MMDiTs T5's after them."""
    return int(backbone.tokenizers[0].model_max_length) + sum(backbone.text_options)


def text_encoder_digest(backbone: Backbone) -> str:
    """Return one digest of all text encoders of a backbone."""
    digests = [component_digest(encoder) for encoder in backbone.text_encoders]
    return digests[0] if len(digests) == 1 else digest_of(digests)


def component_digest(module: nn.Module) -> str:
    """Return the sha256 of a diffusers or transformers component: what it computes and every weight's bytes.

    Taken in float32, so that a stored half-precision model has one digest on every device.
    """
    digest = hashlib.sha256()
    config: Any = module.config
    fields = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    said = {name: value for name in FUNCTION_FIELDS if (value := fields.get(name)) is not None}
    digest.update(canonical_json(json.loads(json.dumps(said, default=str))))
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
