"""Export of a pretrained model as the folder that its diffusers pipeline loads, with its recipe beside it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

RECIPE_FILENAME = "recipe.json"


def export_pipeline(folder: Path, pipeline: Any, recipe: dict[str, Any]) -> Path:
    """Write a whole pipeline as safetensors to ``folder``, replacing what is there, and ``recipe.json``.

    Returns the folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        staged = Path(temporary) / "weights"
        pipeline.save_pretrained(staged, safe_serialization=True)
        write_recipe(staged, recipe)
        if folder.exists():
            folder.rename(Path(temporary) / "previous")
        staged.rename(folder)
    return folder


def write_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    """Write ``recipe.json`` into a weights folder."""
    text = json.dumps(recipe, indent=2, sort_keys=True) + "\n"
    (folder / RECIPE_FILENAME).write_text(text, encoding="utf-8")


def half(module: Any) -> Any:
    """Return a half-precision copy of a module, rebuilt from its own configuration."""
    is_of_transformers = isinstance(module, PreTrainedModel)
    twin = type(module)(module.config) if is_of_transformers else type(module).from_config(module.config)
    twin.load_state_dict(module.state_dict())
    return torch.nn.Module.to(twin, torch.float16)  # diffusers warns about its own ``to``
