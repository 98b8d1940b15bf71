"""Backbones: frozen pipelines with the places where soft tokens enter. Families do not know each other."""

from __future__ import annotations

import torch

from softalign.backbones.base import Backbone
from softalign.config import BackboneConfig


def load_backbone(config: BackboneConfig, *, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Return a family's frozen backbone, in eval mode, on a device.

    Raises:
        MissingInputError: the model is neither a local folder nor reachable on the hub.
        CompatibilityError: the model is not of the family.
    """
    from softalign.backbones.unet import UNetBackbone

    return UNetBackbone.load(config, device=device, dtype=dtype)
