"""What a champion's tags say, written by this library or by another version of it."""

from types import SimpleNamespace

import pytest

from softalign.artifacts import SCHEMA_VERSION
from softalign.config import load_recipe
from softalign.errors import CompatibilityError, ConfigError, IntegrityError, RegistryError
from softalign.registry.versions import COMPARISON_TAG, comparison_of, find_model
from tests import registry_samples


def client_with(tag):
    version = SimpleNamespace(tags={} if tag is None else {COMPARISON_TAG: tag})
    return SimpleNamespace(get_model_version=lambda name, number: version)


def test_the_champions_scores_are_read_and_may_be_absent():
    comparison = registry_samples.comparison_of(0.1)
    assert comparison_of(client_with(comparison.model_dump_json(exclude={"uri"})), "name", 1) == comparison
    assert comparison_of(client_with(None), "name", 1) is None
    assert comparison_of(client_with("unread"), "name", None) is None


def test_scores_of_another_format_are_refused_with_what_to_do():
    comparison = registry_samples.comparison_of(0.1).model_copy(update={"schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(CompatibilityError, match="The champion's comparison is of a newer format") as caught:
        comparison_of(client_with(comparison.model_dump_json(exclude={"uri"})), "name", 3)
    assert caught.value.where == "models:/name/3"
    assert caught.value.fix.endswith("make another version champion: `softalign promote name --version N`")


@pytest.mark.parametrize("tag", ["{", "[]", '{"suite": "shapes"}'])
def test_a_damaged_tag_is_named(tag):
    with pytest.raises(IntegrityError, match="The champion's scores cannot be read") as caught:
        comparison_of(client_with(tag), "name", 3)
    assert caught.value.where == f"models:/name/3, tag {COMPARISON_TAG}"


def test_a_models_history_is_no_model():
    with pytest.raises(ConfigError, match="another model's history"):
        load_recipe("shapes", ["register.name=cats.history"])
    with pytest.raises(RegistryError, match=r"(?s)is the history of 'cats'.*softalign history cats"):
        find_model(SimpleNamespace(), "cats.history")
