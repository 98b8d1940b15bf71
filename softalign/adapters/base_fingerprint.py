"""Which denoiser an adapter belongs to: the architecture, and a few of its weights.

Weights are compared with a tolerance, so the same model in float16, bfloat16 and float32 is one base, and a model that
was trained further is another. Stored in eight bits a weight is known coarsely, and packed by a quantisation not at
all: there the architecture and the weights that were left as they are decide.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from softalign.artifacts import Frozen
from softalign.errors import CompatibilityError

NUM_SAMPLES = 32
RELATIVE_TOLERANCE = 0.01
"""bfloat16 keeps 8 bits: a relative error of at most 0.4 %."""
ABSOLUTE_TOLERANCE = 1e-6
"""float16's smallest step is 6e-8; weights this small are rounding."""
TOLERANCES = {torch.float8_e4m3fn: (2.0**-4, 2.0**-10), torch.float8_e5m2: (2.0**-3, 2.0**-17)}
"""Relative and absolute errors of rounding to eight bits: half a step of the mantissa (3 and 2 bits), and of the
smallest number."""
MAX_DIFFERING = 1
"""How many samples may differ: a weight that a conversion flushed to zero is not another model."""
UNET_FIELDS = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "attention_head_dim",
    "down_block_types",
    "mid_block_type",
    "up_block_types",
)
TRANSFORMER_FIELDS = (
    "in_channels",
    "out_channels",
    "patch_size",
    "num_layers",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "caption_projection_dim",
    "pooled_projection_dim",
    "pos_embed_max_size",
    "dual_attention_layers",
    "qk_norm",
)


class SampledWeight(Frozen):
    """One value of one weight tensor."""

    name: str
    index: int
    value: float


class BaseFingerprint(Frozen):
    """A denoiser's class, the fields of its configuration that fix its architecture, and sampled weights."""

    class_name: str
    architecture: str
    weights: tuple[SampledWeight, ...]


def fingerprint_of(denoiser: nn.Module) -> BaseFingerprint:
    """Return a denoiser's fingerprint; LoRA layers around its weights are looked through."""
    tensors = _weight_tensors(denoiser)
    names = sorted(tensors)
    chosen = [names[place * len(names) // NUM_SAMPLES] for place in range(NUM_SAMPLES)] if names else []
    samples = []
    for place, name in enumerate(chosen):
        digest = hashlib.sha256(f"{place}/{name}".encode()).digest()
        index = int.from_bytes(digest[:8], "big") % tensors[name].numel()
        samples.append(SampledWeight(name=name, index=index, value=_value(tensors[name], index)))
    return BaseFingerprint(
        class_name=type(denoiser).__name__, architecture=_architecture(denoiser), weights=tuple(samples)
    )


def check_base(expected: BaseFingerprint, denoiser: nn.Module, *, base_model: str) -> None:
    """Check that a denoiser is the one an adapter was trained on.

    Args:
        expected: the adapter's fingerprint.
        denoiser: what it shall be attached to.
        base_model: the adapter's base, for the message.

    Raises:
        CompatibilityError: another architecture, or other weights.
    """
    fix = f"load the adapter into {base_model}, or pass force=True to use it with this model nevertheless"
    architecture = _architecture(denoiser)
    if architecture != expected.architecture:
        raise CompatibilityError(
            "The adapter was trained on a denoiser of another architecture.",
            expected=expected.architecture,
            found=architecture,
            where=type(denoiser).__name__,
            fix=fix,
        )
    tensors = _weight_tensors(denoiser)
    comparable = [sample for sample in expected.weights if not _is_packed(tensors.get(sample.name))]
    differing = [sample.name for sample in comparable if not _agrees(sample, tensors)]
    if expected.weights and not comparable:
        warnings.warn(
            f"All weights of {type(denoiser).__name__} are quantised: that they are those of {base_model} "
            "could not be checked.",
            stacklevel=3,
        )
    if len(differing) > MAX_DIFFERING:
        raise CompatibilityError(
            "The adapter was trained on another base model: same architecture, other weights.",
            expected=f"the weights of {base_model}",
            found=f"{len(differing)} of {len(comparable)} sampled weights differ, such as {differing[0]}",
            where=type(denoiser).__name__,
            fix=f"{fix}; where a LoRA was fused into it, call unfuse_lora() first",
        )


def _agrees(sample: SampledWeight, tensors: dict[str, Tensor]) -> bool:
    tensor = tensors.get(sample.name)
    if tensor is None or sample.index >= tensor.numel():
        return False
    relative, absolute = TOLERANCES.get(tensor.dtype, (RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE))
    return abs(_value(tensor, sample.index) - sample.value) <= relative * abs(sample.value) + absolute


def _is_packed(tensor: Tensor | None) -> bool:
    """Return whether single weights cannot be read: integers, or a tensor class of a quantisation library."""
    return tensor is not None and (not tensor.is_floating_point() or type(tensor) not in (Tensor, nn.Parameter))


def _value(tensor: Tensor, index: int) -> float:
    return float(tensor.detach().reshape(-1)[index].to(torch.float32))


def _weight_tensors(denoiser: nn.Module) -> dict[str, Tensor]:
    """Return the weight matrices and kernels by name; offloaded ones come from where they are kept."""
    found: dict[str, Tensor] = {}
    for module_name, module in denoiser.named_modules():
        kept = getattr(getattr(module, "_hf_hook", None), "weights_map", None)  # accelerate's offloading
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{module_name}.{name}".replace(".base_layer.", ".")
            if parameter.ndim >= 2 and "lora_" not in full_name:
                found[full_name] = kept[name] if parameter.is_meta and kept is not None else parameter
    return found


def _architecture(denoiser: nn.Module) -> str:
    config: Any = denoiser.config
    names = TRANSFORMER_FIELDS if "joint_attention_dim" in config else UNET_FIELDS
    fields = {name: config.get(name) for name in names}
    if type(denoiser).__name__ == "UNetMotionModel":
        fields.update(_without_motion(config))
    return json.dumps(fields, sort_keys=True)


def _without_motion(config: Any) -> dict[str, Any]:
    """Return the fields in which AnimateDiff's U-Net differs from the one that it was made of."""
    types = ("down_block_types", "up_block_types")
    layers = config["layers_per_block"]
    heads = config["num_attention_heads"]
    return {
        **{name: [kind.replace("Motion", "2D") for kind in config[name]] for name in types},
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "layers_per_block": layers[0] if isinstance(layers, (list, tuple)) and len(set(layers)) == 1 else layers,
        "attention_head_dim": heads,
    }
