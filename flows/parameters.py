"""The flows' parameters: what the orchestrator's page shows as a form, and refuses before a run is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from softalign.config.schema import recipe_schema


def inlined_schema() -> dict[str, Any]:
    """Return the schema of a recipe without references: the orchestrator has its own place for definitions.

    And without defaults: a form would send them as if they were meant, and what is left open follows family and preset.
    """
    schema = recipe_schema()
    definitions = schema.pop("$defs")
    return dict(_inlined(schema, definitions))


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    kept = node
    if "$ref" in node:
        kept = {**deepcopy(definitions[node["$ref"].rpartition("/")[2]]), **node}
    left_out = {"$ref", "discriminator", *(() if "const" in kept or "default" not in kept else ("default",))}
    if isinstance(kept.get("default"), dict) and "description" in kept["default"]:  # a field of that name, not a value
        left_out.discard("default")
    return {name: _inlined(value, definitions) for name, value in kept.items() if name not in left_out}


InlineRecipe = Annotated[dict[str, Any], WithJsonSchema({**inlined_schema(), "title": "Recipe"})]
"""A recipe itself, with a form for its fields."""
RecipeParameter = Annotated[
    str | InlineRecipe,
    Field(
        title="Recipe",
        description="a recipe's name, path, address (s3://, https://) or git+https://HOST/REPOSITORY@REF#PATH, "
        "or the recipe itself",
    ),
]
OverridesParameter = Annotated[
    Sequence[Annotated[str, Field(pattern=r"^\s*[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\s*=")]],
    Field(title="Overrides", description="section.field=value, such as train.num_steps=100; applied in order"),
]
StoreParameter = Annotated[str, Field(title="Store", description="folder or s3:// URI where everything is published")]
