"""``softalign recipe``: a recipe with everything filled in, as text, as JSON, or the schema of all recipes."""

import json

import pytest
from typer.testing import CliRunner

from softalign.cli.app import app
from softalign.config import Recipe, load_recipe
from softalign.errors import ConfigError


def shown(*arguments):
    result = CliRunner().invoke(app, ["recipe", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_text_is_a_recipe_with_origins(tmp_path):
    text = shown("shapes", "--set", "train.seed=3")
    (tmp_path / "again.yaml").write_text(text)
    assert load_recipe(str(tmp_path / "again.yaml")) == load_recipe("shapes", ["train.seed=3"])
    origins = {line.split()[0]: line.split()[-1] for line in text.splitlines() if line.startswith("  ") and "#" in line}
    assert origins["num_steps:"] == "recipe" and origins["early_stop_patience:"] == "default"


def test_json_has_the_values_and_their_origins():
    found = json.loads(shown("shapes-sd3", "--set", "train.seed=3", "--json"))
    assert Recipe.model_validate(found["recipe"]) == load_recipe("shapes-sd3", ["train.seed=3"])
    assert (found["origins"]["train.seed"], found["origins"]["train.objective.gamma_negative"]) == ("--set", "family")


def test_the_schema_needs_no_recipe():
    schema = json.loads(shown("--schema"))
    assert schema["properties"]["train"]["description"] and "register" in schema["required"]


def test_without_either_the_recipe_is_asked_for():
    with pytest.raises(ConfigError, match="No recipe is named"):
        CliRunner().invoke(app, ["recipe"], catch_exceptions=False)
