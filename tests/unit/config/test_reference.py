"""The schema describes every field, and the reference made of it is current."""

from importlib import resources

import jsonschema
import pytest
import yaml

from softalign.config import Recipe, load_recipe, recipe_names
from softalign.config.families import FAMILIES
from softalign.config.presets import PRESETS, PRESETS_BY_FAMILY
from softalign.config.reference import REFERENCE_PATH, reference_text
from softalign.config.schema import recipe_schema
from softalign.problems import field_paths


def test_every_field_is_described():
    schema = recipe_schema()
    models = {"Recipe": schema, **schema["$defs"]}
    assert len(models) > 15
    fields = {f"{model}.{name}": field for model, one in models.items() for name, field in one["properties"].items()}
    assert len(fields) > 100
    assert [name for name, field in fields.items() if len(field.get("description", "")) < 8] == []
    assert [model for model, one in models.items() if not one.get("description")] == []


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_and_what_it_resolves_to_fit_the_schema(name):
    written = yaml.safe_load((resources.files("softalign") / "recipes" / f"{name}.yaml").read_text())
    resolved = load_recipe(name).model_dump(mode="json", by_alias=True)
    validator = jsonschema.Draft202012Validator(recipe_schema())
    for recipe in (written, resolved, {**written, "train": {"soft_tokens": {"num_soft_tokens": 2}}}):
        assert list(validator.iter_errors(recipe)) == []
    for train in ({"num_steps": 0}, {"steps": 3}, {"objective": {"name": "softrepa", "banks": "dual"}}):
        assert list(validator.iter_errors({**written, "train": train}))


def test_the_reference_is_current():
    assert REFERENCE_PATH.read_text() == reference_text(), "run python -m softalign.config.reference"


def test_the_reference_has_every_field_and_the_numbers_of_families_and_presets():
    text = reference_text()
    assert [
        path for path in field_paths(Recipe) if f"`{path.rpartition('.')[2]}`" not in text and path not in text
    ] == []
    assert "`0.1`: sd3, sd35, preset code with sdxl" in text
    assert "`10 x train.validate_every_steps`: preset code" in text


def test_the_tables_name_fields_that_there_are():
    tables = [*(record.defaults for record in FAMILIES.values()), *PRESETS.values(), *PRESETS_BY_FAMILY.values()]
    assert {path for table in tables for path in table} <= set(field_paths(Recipe))
