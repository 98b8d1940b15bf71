"""What ``softalign diagnose`` is asked about: an adapter by itself, or the one that a recipe trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from softalign.artifacts import Adapter, EncodedManifest, Stage
from softalign.config.backbone import BackboneConfig
from softalign.config.loading import recipe_names
from softalign.config.recipe import Recipe
from softalign.config.runtime import Runtime
from softalign.diagnosis.diagnose import DiagnosisRequest
from softalign.errors import ConfigError, MissingInputError
from softalign.sampling.chosen_model import choose_model
from softalign.stages.published import Published
from softalign.stages.recipe_sources import GIT, STORED_FOLDER, open_recipe
from softalign.stages.run import require
from softalign.stages.table import steps_of
from softalign.store.files import read_bytes
from softalign.store.store import Store


@dataclass(frozen=True)
class AskedDiagnosis:
    """The arguments of the command; see ``DiagnosisRequest`` for those that it hands on.

    Attributes:
        target: an adapter as ``load_soft_tokens`` takes it, or a recipe.
        data: a recipe whose held-out images are looked at; None: the target's own.
        overrides: ``section.field=value`` of the recipe that is named, whichever it is.
        base: another base model than the adapter's, of the same architecture and weights.
    """

    target: str
    data: str | None
    overrides: Sequence[str]
    base: str | None
    runtime: Runtime
    out: Path
    num_images: int
    seed: int
    rows_per_call: int
    is_forced: bool


def request_of(asked: AskedDiagnosis, store: Store) -> DiagnosisRequest:
    """Return what is to be diagnosed.

    Raises:
        ConfigError: options do not go together, or there is no such recipe.
        MissingInputError: there is no such adapter, or the recipe's stages have not run in this store.
        CompatibilityError: the base model is of another family than the adapter's.
    """
    if is_recipe(asked.target, store):
        return _of_recipe(asked, store)
    if asked.overrides and asked.data is None:
        raise ConfigError("--set changes a recipe, and none is named.", found=asked.target, fix="add --data RECIPE")
    chosen = choose_model(asked.target, asked.base)
    if chosen.folder is None:
        raise ConfigError("There is no adapter to diagnose.", expected="an adapter or a recipe", found=asked.target)
    if asked.data is None:
        return _request(asked, chosen.adapter, chosen.folder, None, chosen.base)
    recipe = open_recipe(asked.data, asked.overrides, store)
    encoded = published_through("encode", recipe, store).get(EncodedManifest)
    base = chosen.base.model_copy(update={"resolution_px": recipe.backbone.resolution_px})
    return _request(asked, chosen.adapter, chosen.folder, encoded, base)


def is_recipe(target: str, store: Store) -> bool:
    """Return whether a name means a recipe: of the package or store, a YAML file, or one in a git repository."""
    if target.startswith(GIT) or target.endswith((".yaml", ".yml")):
        return True
    if Path(target).exists() or not re.fullmatch(r"[\w-]+", target):
        return False
    return target in recipe_names() or _is_stored(target, store)


def published_through(last: Stage, recipe: Recipe, store: Store) -> Published:
    """Return the records of a recipe's steps up to a stage.

    Raises:
        MissingInputError: one of them has not run; says how to run it.
    """
    published, or_else = Published(), f"`softalign {last} RECIPE --through` for all that is needed"
    for step in steps_of(recipe):
        published = published.plus(step.label, require(step, published, store, or_else=or_else))
        if step.row.name == last:
            break
    return published


def _of_recipe(asked: AskedDiagnosis, store: Store) -> DiagnosisRequest:
    if asked.data is not None or asked.base is not None:
        raise ConfigError(
            "A recipe has its own data and base model.", expected="no --data and no --base", found=asked.target
        )
    recipe = open_recipe(asked.target, asked.overrides, store)
    published = published_through("train", recipe, store)
    adapter = published.get(Adapter)
    return _request(asked, recipe.name, store.fetch(adapter), published.get(EncodedManifest), recipe.backbone)


def _request(
    asked: AskedDiagnosis, name: str, folder: Path, encoded: EncodedManifest | None, base: BackboneConfig
) -> DiagnosisRequest:
    return DiagnosisRequest(
        name=name,
        folder=folder,
        base=base,
        runtime=asked.runtime,
        out=asked.out,
        num_images=asked.num_images,
        seed=asked.seed,
        rows_per_call=asked.rows_per_call,
        is_forced=asked.is_forced,
        encoded=encoded,
    )


def _is_stored(name: str, store: Store) -> bool:
    try:
        read_bytes(f"{store.uri}/{STORED_FOLDER}/{name}.yaml")
    except MissingInputError:
        return False
    return True
