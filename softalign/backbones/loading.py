"""The backbone of a configuration, whatever its family; and the family of a model."""

from __future__ import annotations

import torch

from softalign.artifacts import Family
from softalign.backbones.base import Backbone
from softalign.backbones.frozen_pipeline import ALL_PARTS, Part, explained_access, families_of_pipeline
from softalign.backbones.locating import reachable_model
from softalign.config.backbone import BackboneConfig
from softalign.config.families import FAMILIES, is_embedded
from softalign.errors import CompatibilityError


def load_backbone(
    config: BackboneConfig, *, device: torch.device, dtype: torch.dtype, parts: tuple[Part, ...] = ALL_PARTS
) -> Backbone:
    """Return a family's frozen backbone, or some parts of it, in eval mode, on a device.

    Raises:
        MissingInputError: the model is neither a local folder nor reachable on the hub, or it is gated.
        CompatibilityError: the model is not of the family.
    """
    if FAMILIES[config.family].is_unet:
        from softalign.backbones.unet import UNetBackbone

        return UNetBackbone.load(config, device=device, dtype=dtype, parts=parts)
    from softalign.backbones.mmdit import MMDiTBackbone

    return MMDiTBackbone.load(config, device=device, dtype=dtype, parts=parts)


def family_of(model: str) -> Family:
    """Return the family that a model's own configuration files name.

    Args:
        model: ``shapes`` (its U-Net), a local folder or a hub id.

    Raises:
        MissingInputError: there is no such model, or it is gated.
        CompatibilityError: no family has such a pipeline.
    """
    from diffusers import DDIMScheduler, SD3Transformer2DModel

    if is_embedded(model):
        return "sd21"
    model = reachable_model(model)
    with explained_access(model):
        families = families_of_pipeline(model)
        if FAMILIES[families[0]].is_unet:
            found = DDIMScheduler.load_config(model, subfolder="scheduler").get("prediction_type", "epsilon")
        else:
            found = SD3Transformer2DModel.load_config(model, subfolder="transformer").get("qk_norm")
    marks = {family: FAMILIES[family].mark for family in families}
    fitting = [family for family, mark in marks.items() if mark == found]
    if not fitting:
        raise CompatibilityError(
            "The base model belongs to no family.",
            expected=", ".join(f"{mark} ({family})" for family, mark in marks.items()),
            found=str(found),
            where=model,
        )
    return fitting[0]
