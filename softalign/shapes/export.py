"""Export of a pretrained model as the folder that StableDiffusionPipeline loads, with its recipe beside it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from softalign.shapes.networks import build_scheduler

RECIPE_FILENAME = "recipe.json"


def export_pipeline(
    folder: Path,
    *,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
    recipe: dict[str, Any],
) -> Path:
    """Write the whole pipeline in fp16 safetensors to `folder`, replacing what is there, and `recipe.json`.

    The modules passed in are left as they are. Returns the folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        staged = Path(temporary) / "weights"
        pipeline = StableDiffusionPipeline(
            vae=_half(vae),
            text_encoder=_half(text_encoder),
            tokenizer=tokenizer,
            unet=_half(unet),
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(staged, safe_serialization=True)
        write_recipe(staged, recipe)
        if folder.exists():
            folder.rename(Path(temporary) / "previous")
        staged.rename(folder)
    return folder


def write_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    """Write `recipe.json` into a weights folder."""
    text = json.dumps(recipe, indent=2, sort_keys=True) + "\n"
    (folder / RECIPE_FILENAME).write_text(text, encoding="utf-8")


def _half(module: Any) -> Any:
    """A half-precision copy of a module, rebuilt from its own configuration."""
    twin = type(module)(module.config) if isinstance(module, CLIPTextModel) else type(module).from_config(module.config)
    twin.load_state_dict(module.state_dict())
    return torch.nn.Module.to(twin, torch.float16)  # diffusers warns about its own `to`
