"""How many images an arm of ``evaluate`` draws, and about how long that takes, before the first one.

By what a published arm of the same model took in this store, where there is one; else an estimate by counted operations
(``python -m tests.bench.cost``; those of SD2.1 and SD3.5 medium counted in the same way), on one A100.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from softalign.artifacts import EvalReport, Family
from softalign.backbones.locating import model_fingerprint, model_folder
from softalign.config.backbone import BackboneConfig
from softalign.config.evaluation import EvalConfig
from softalign.config.families import FAMILIES
from softalign.config.recipe import Recipe
from softalign.evaluation.suites import suite_prompts
from softalign.stages.accounting import usage_of_reused
from softalign.stages.asked_before import published_requests
from softalign.store.store import Store
from softalign.version import __version__

A100_FLOPS = 0.4 * 312e12
"""Operations a second: an assumed share of the card's published peak in bfloat16. Nothing was timed on one."""


@dataclass(frozen=True, slots=True)
class CountedDenoiser:
    """A family's published denoiser: operations of one call for one image of the family's size, and its parameters."""

    flops: float
    num_parameters: int


COUNTED: dict[Family, CountedDenoiser] = {
    "sd15": CountedDenoiser(0.803e12, 859_520_964),
    "sd21": CountedDenoiser(2.149e12, 865_910_724),
    "sdxl": CountedDenoiser(6.761e12, 2_567_463_684),
    "sd3": CountedDenoiser(8.904e12, 2_028_328_000),
    "sd35": CountedDenoiser(11.250e12, 2_243_171_520),
}


@dataclass(frozen=True, slots=True)
class PredictedDrawing:
    """What an arm draws.

    Attributes:
        num_images: as many as the suite asks for.
        minutes: about; None where nothing is known to tell it by.
        basis: what the minutes are known by; empty without.
    """

    num_images: int
    minutes: float | None = None
    basis: str = ""

    @property
    def text(self) -> str:
        """In words."""
        if self.minutes is None:
            return f"{self.num_images:,} images"
        return f"{self.num_images:,} images, {_minutes_text(self.minutes)} ({self.basis})"


def predicted_drawing(recipe: Recipe, config: EvalConfig, store: Store) -> PredictedDrawing:
    """Return what an arm draws and about how long that takes.

    Args:
        recipe: the recipe.
        config: of the arm (``EvalConfig.of_arm``).
        store: whose published arms are looked at.
    """
    number = len(suite_prompts(config)) * config.images_per_prompt
    side_px, num_calls = config.side_px(recipe.backbone), number * config.denoiser_calls_per_image
    measured = measured_call_s(recipe.backbone, side_px, store)
    if measured is not None:
        return PredictedDrawing(number, num_calls * measured / 60, "as this model's last arm in this store")
    flops = _call_flops(recipe.backbone, side_px)
    if flops is None:
        return PredictedDrawing(number)
    return PredictedDrawing(number, num_calls * flops / A100_FLOPS / 60, "an estimate, on one A100")


def measured_call_s(backbone: BackboneConfig, side_px: int, store: Store) -> float | None:
    """Return the seconds of a denoiser's call for one image, by the newest arm that drew any; None: there is none."""
    model = model_fingerprint(backbone)
    for _, prefix, request in sorted(published_requests("evaluate", store), key=lambda one: -one[0]):
        if request.content.get("backbone.model") != model or request.library_version != __version__:
            continue
        record = store.find(EvalReport, prefix.rpartition("/")[2])
        usage = None if record is None else usage_of_reused(record, store)
        rate = None if usage is None else usage.rates.get("images")
        config = EvalConfig.model_validate(request.config["evaluate"])
        if rate and config.side_px(backbone) == side_px:
            return 1.0 / rate / config.denoiser_calls_per_image
    return None


def _call_flops(backbone: BackboneConfig, side_px: int) -> float | None:
    """Return about how many operations a call takes for one image; None of the embedded models."""
    if backbone.is_embedded:
        return None
    counted, own_px = COUNTED[backbone.family], FAMILIES[backbone.family].defaults["evaluate.resolution_px"]
    folder = model_folder(backbone)
    num_parameters = 0 if folder is None else _num_parameters(folder, backbone.family)
    share: float = (num_parameters or counted.num_parameters) / counted.num_parameters
    area: float = (side_px / own_px) ** 2
    return counted.flops * share * area


def _num_parameters(folder: Path, family: Family) -> int:
    """Return how many parameters the denoiser's safetensors hold; 0: it has none, or several sets of them."""
    files = (folder / ("unet" if FAMILIES[family].is_unet else "transformer")).glob("*.safetensors")
    total = 0
    for path in files:
        with safe_open(path, framework="numpy") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())
    return total


def _minutes_text(minutes: float) -> str:
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes:,.0f} min" if minutes < 120 else f"about {minutes / 60:,.1f} h"
