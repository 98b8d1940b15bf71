"""Export of a pretrained model as the folder that its diffusers pipeline loads, with its recipe beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from transformers import PreTrainedModel

from softalign.artifacts import Frozen
from softalign.errors import ConfigError, os_error_text
from softalign.problems import problems
from softalign.shapes.pretraining.recipe import EmbeddedFamily, PretrainConfig
from softalign.store.files import replacing

RECIPE_FILENAME = "recipe.json"


class WeightsRecipe(Frozen):
    """What a weights folder was made by: ``recipe.json``.

    Attributes:
        family: which model; the first recipes, all of U-Nets, do not say it.
        scores_by_guidance_scale: share of correct images by tag, of the weights as they are shipped.
        num_inference_steps: of the scores' images.
        start: what the weights were made by that training went on from (``config.start_sha256``), where that is known.
    """

    family: EmbeddedFamily = "sd21"
    config: PretrainConfig
    samples_seen: int
    scores_by_guidance_scale: dict[str, dict[str, float]] = Field(default_factory=dict)
    num_inference_steps: int
    start: WeightsRecipe | None = None


def export_pipeline(folder: Path, pipeline: Any, recipe: WeightsRecipe) -> Path:
    """Write a whole pipeline as safetensors to ``folder``, replacing what is there, and ``recipe.json``.

    Returns the folder.
    """
    with replacing(folder, drops_folder=True) as made:
        pipeline.save_pretrained(made, safe_serialization=True)
        write_recipe(made, recipe)
    return folder


def write_recipe(folder: Path, recipe: WeightsRecipe) -> None:
    """Write ``recipe.json`` into a weights folder."""
    text = json.dumps(recipe.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"
    (folder / RECIPE_FILENAME).write_text(text, encoding="utf-8")


def read_recipe(path: Path, fix: str = "name the recipe.json that lies beside the weights") -> WeightsRecipe:
    """Read the ``recipe.json`` of a weights folder.

    Args:
        path: the file.
        fix: what to do where it cannot be read.

    Raises:
        ConfigError: it is none.
    """
    try:
        return WeightsRecipe.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(
            "This is no recipe of an embedded model's weights.",
            expected=f"{RECIPE_FILENAME} of a weights folder",
            found=os_error_text(error) if isinstance(error, OSError) else _problems_text(error),
            where=str(path),
            fix=fix,
        ) from error


def _problems_text(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return f"no valid JSON: {first['ctx']['error']}"
    return "; ".join(problems(error, WeightsRecipe))


def read_config(recipe: Path | None, family: EmbeddedFamily | None) -> tuple[PretrainConfig, EmbeddedFamily]:
    """Return the settings and the family that a run is asked for.

    Args:
        recipe: the ``recipe.json`` to repeat; none: the settings are the defaults, and the family is ``sd21``.
        family: the family that was named; none: the recipe's.

    Raises:
        ConfigError: the file is no recipe, or one of another family.
    """
    if recipe is None:
        return PretrainConfig(), family or "sd21"
    read = read_recipe(recipe)
    if family not in {None, read.family}:
        raise ConfigError(
            "The recipe is of another family.",
            expected=read.family,
            found=str(family),
            where=f"--family, --recipe {recipe}",
            fix="leave out --family, or name a recipe of that family",
        )
    return read.config, read.family


def half(module: Any) -> Any:
    """Return a half-precision copy of a module, rebuilt from its own configuration, but for the folder it came from."""
    if isinstance(module, PreTrainedModel):
        twin = type(module)(module.config)
    else:
        twin = type(module).from_config({key: module.config[key] for key in module.config if key != "_name_or_path"})
    twin.load_state_dict(module.state_dict())
    return torch.nn.Module.to(twin, torch.float16)  # diffusers warns about its own ``to``
