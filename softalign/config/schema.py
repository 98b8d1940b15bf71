"""The JSON schema of a recipe: for editors, and for the reference."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from softalign.config.recipe import Recipe


class _Schema(GenerateJsonSchema):
    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """A section may fit several kinds where what tells them apart is left open, or stands in another section."""
        union = super().tagged_union_schema(schema)
        if "oneOf" in union and "discriminator" not in union:
            union["anyOf"] = union.pop("oneOf")
        return union


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, every field described; what needs several fields to say is not in it."""
    return Recipe.model_json_schema(schema_generator=_Schema)
