"""The command that shows a recipe: ``softalign recipe``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from softalign.cli.completion import recipe_words
from softalign.cli.options import JsonOption, SetOption, app, emit
from softalign.errors import ConfigError


@app.command("recipe")
def show_recipe(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help="a recipe's name or the path of a YAML file", autocompletion=recipe_words
        ),
    ] = None,
    overrides: SetOption = None,
    schema: Annotated[bool, typer.Option("--schema", help="print the JSON schema of recipes instead")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a recipe with everything filled in, and where each value comes from."""
    if schema:
        from softalign.config.schema import recipe_schema

        typer.echo(json.dumps(recipe_schema(), indent=2))
        return
    if recipe is None:
        raise ConfigError("No recipe is named.", expected="`softalign recipe RECIPE`", fix="name one, or add --schema")
    from softalign.config.loading import explain_recipe

    explained = explain_recipe(recipe, overrides or ())
    emit({"recipe": explained.values, "origins": explained.origins}, as_json, explained.to_text())
