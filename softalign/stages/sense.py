"""Parts of a recipe that can be put together but make no sense together: refused by name, or warned of.

Refused is what nobody can want: scores that are wrong whatever the model does. The rest is warned of: a rehearsal of
one's own data on the embedded model costs minutes and is a good idea. A model in a local folder is taken at its word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from softalign.backbones.locating import model_folder
from softalign.config.curation import ShapesSource
from softalign.config.families import KNOWN_MODELS
from softalign.config.recipe import Recipe
from softalign.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Two parts of a recipe that make no sense together.

    Attributes:
        where: the fields.
        what: why they do not go together, as a sentence.
        fix: what to do.
        is_hopeless: nobody can want it.
    """

    where: str
    what: str
    fix: str
    is_hopeless: bool

    def to_error(self) -> ConfigError:
        """Return the refusal."""
        return ConfigError(self.what, where=self.where, fix=self.fix)

    @property
    def text(self) -> str:
        """The warning."""
        return f"{self.where}: {self.what} To do: {self.fix}."


def mismatches(recipe: Recipe) -> tuple[Mismatch, ...]:
    """Return what makes no sense in a recipe, what concerns its evaluation first."""
    return (*_evaluation(recipe), *_sources(recipe))


def warnings_of(recipe: Recipe) -> tuple[str, ...]:
    """Return what is not refused, but is hardly meant."""
    return tuple(found.text for found in mismatches(recipe) if not found.is_hopeless)


def _evaluation(recipe: Recipe) -> Iterator[Mismatch]:
    evaluate, model = recipe.evaluate, recipe.backbone.model
    if not evaluate.is_embedded and recipe.backbone.is_embedded:
        yield Mismatch(
            where="evaluate.suite, backbone.model",
            what="GenEval's prompts ask for objects of 80 kinds, and the embedded model draws flat shapes alone.",
            fix="set evaluate.suite to shapes, or backbone.model to a model of photographs",
            is_hopeless=True,
        )
    if evaluate.is_embedded and _is_on_hub(recipe):
        yield Mismatch(
            where="evaluate.suite, backbone.model",
            what=f"The suite of the embedded world sees flat shapes alone, and {model} does not draw them.",
            fix="set evaluate.suite to geneval, generate elsewhere and score with `softalign geneval score`, or set "
            "backbone.model to shapes or to the folder of a model that was trained on them",
            is_hopeless=model in KNOWN_MODELS,
        )


def _sources(recipe: Recipe) -> Iterator[Mismatch]:
    model, sources = recipe.backbone.model, recipe.curation.sources
    rendered = [index for index, source in enumerate(sources) if isinstance(source, ShapesSource)]
    given = [index for index in range(len(sources)) if index not in rendered]
    if recipe.backbone.is_embedded and given:
        yield Mismatch(
            where=_fields(given),
            what="The embedded model knows flat shapes of 32 x 32 pixels alone; from photographs it learns nothing.",
            fix="this rehearses the chain; for a result set backbone to a model of photographs",
            is_hopeless=False,
        )
    if rendered and _is_on_hub(recipe):
        yield Mismatch(
            where=_fields(rendered),
            what=f"Scenes of the embedded world are no photographs; {model} learns to draw flat shapes from them.",
            fix="this rehearses the chain; for a result name your images as a coco or parquet source",
            is_hopeless=False,
        )


def _fields(indices: list[int]) -> str:
    return ", ".join([*(f"curation.sources.{index}" for index in indices), "backbone.model"])


def _is_on_hub(recipe: Recipe) -> bool:
    return not recipe.backbone.is_embedded and model_folder(recipe.backbone) is None
