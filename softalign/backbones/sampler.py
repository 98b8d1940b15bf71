"""Which sampler draws a backbone's images: the class of its scheduler, without loading the model."""

from __future__ import annotations

from softalign.backbones.frozen_pipeline import explained_access
from softalign.backbones.locating import resolve_model
from softalign.config.backbone import BackboneConfig
from softalign.config.families import FAMILIES


def sampler_of(config: BackboneConfig) -> str:
    """Return the class of the scheduler that ``Backbone.use_papers_sampler`` leaves in a backbone's pipeline.

    U-Nets are drawn with DDIM, whatever their model's own scheduler is; MMDiTs with their model's own.

    Raises:
        MissingInputError: the model is not there.
    """
    if FAMILIES[config.family].is_unet:
        return "DDIMScheduler"
    from diffusers import DiffusionPipeline

    model = resolve_model(config)
    with explained_access(model):
        _, name = DiffusionPipeline.load_config(model, revision=config.revision)["scheduler"]
    return str(name)
