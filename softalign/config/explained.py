"""A recipe with everything resolved, and where each value comes from: as text that is a recipe itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from softalign.config.paths import leaves
from softalign.config.recipe import Recipe
from softalign.config.resolving import Origin, Resolution

MAX_COLUMN = 72
"""Comments stand in one column where lines are shorter than this."""


@dataclass(frozen=True, slots=True)
class ExplainedRecipe:
    """A recipe, and what is known of how it came about.

    Attributes:
        recipe: the recipe.
        resolution: the plain data it was made from.
        set_paths: what overrides set.
    """

    recipe: Recipe
    resolution: Resolution
    set_paths: tuple[str, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The recipe as plain data, by section."""
        return self.recipe.model_dump(mode="json", by_alias=True)

    @property
    def origins(self) -> dict[str, Origin]:
        """Where each value comes from, by its path."""
        said = {path for path, _ in leaves(self.resolution.data)}
        return {path: self._origin_of(path, path in said) for path, _ in leaves(self.values)}

    def to_text(self) -> str:
        """Return the recipe as YAML with each value's origin as a comment; read again it is the same recipe."""
        rows = list(_rows(self.values, self.origins))
        column = max(len(line) for line, origin in rows if origin and len(line) < MAX_COLUMN)
        return "\n".join(f"{line:<{column}}  # {origin}" if origin else line for line, origin in rows)

    def _origin_of(self, path: str, is_said: bool) -> Origin:
        if path in self.resolution.origins:
            return self.resolution.origins[path]
        written = self.resolution.renamed.get(path, path)
        if is_said and any(f"{written}.".startswith(f"{one}.") for one in self.set_paths):
            return "--set"
        return "recipe" if is_said else "default"


def _rows(
    value: dict[str, Any], origins: dict[str, Origin], path: str = "", indent: str = ""
) -> Iterator[tuple[str, Origin | None]]:
    """Yield each line, and the origin of the value in it; None where it has none of its own."""
    for name, inner in value.items():
        place = f"{path}{name}"
        if isinstance(inner, dict):
            yield f"{indent}{name}:", None
            yield from _rows(inner, origins, f"{place}.", f"{indent}  ")
        elif isinstance(inner, list) and any(isinstance(item, dict) for item in inner):
            yield f"{indent}{name}:", None
            for index, item in enumerate(inner):
                first, *others = _rows(item, origins, f"{place}.{index}.", f"{indent}    ")
                yield f"{indent}  - {first[0].lstrip()}", first[1]
                yield from others
        else:
            yield f"{indent}{name}: {_scalar(inner)}", origins[place]


def _scalar(value: Any) -> str:
    """Return a value on one line of YAML."""
    if isinstance(value, str) and not value.isprintable():
        return json.dumps(value)
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True).strip()[1:-1]
