"""A password in a recipe, an override or a store's address is refused, and no error shows it."""

import traceback

import pytest

from softalign.config import Recipe, load_recipe
from softalign.credentials import holds_secret, without_secrets
from softalign.errors import ConfigError
from softalign.store.store import Store

SECRET = "planted7"


@pytest.mark.parametrize(
    ("override", "path"),
    [
        (f"runtime.tracking_uri=http://u:{SECRET}@h:5000", "runtime.tracking_uri"),
        (f"runtime.checkpoint_uri=s3://key:{SECRET}@bucket/x", "runtime.checkpoint_uri"),
        (f"backbone.model=https://u:{SECRET}@h/model", "backbone.model"),
        (
            f"curation.sources=[{{type: coco, annotations_uri: 'simplecache::https://u:{SECRET}@h', images_uri: i}}]",
            "curation.sources.0.annotations_uri",
        ),
        (f"runtime.compile=http://u:{SECRET}@h", "runtime.compile"),
    ],
)
def test_a_password_in_a_recipe_is_refused_by_its_field(override, path):
    with pytest.raises(ConfigError, match=f"{path} holds a password") as refused:
        load_recipe("shapes", [override])
    assert SECRET not in "".join(traceback.format_exception(refused.value)).replace(override, "")


def test_a_registrys_password_is_said_where_to_set():
    with pytest.raises(ConfigError, match="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        load_recipe("shapes", [f"runtime.tracking_uri=http://u:{SECRET}@h:5000"])


@pytest.mark.parametrize("value", ["[http://u:{}@h", "{{a: http://u:{}@h", "http://u:{}@h: b: c"])
def test_what_is_no_yaml_is_shown_without_its_password(tmp_path, value):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: {value.format(SECRET)}\n")
    for name, overrides in ((str(path), []), ("shapes", [f"runtime.tracking_uri={value.format(SECRET)}"])):
        with pytest.raises(ConfigError, match="not valid YAML") as refused:
            load_recipe(name, overrides)
        assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_a_recipe_object_with_a_password_is_refused_without_showing_it():
    data = load_recipe("shapes").model_dump(mode="json", by_alias=True)
    data["runtime"]["tracking_uri"] = f"http://u:{SECRET}@h"
    with pytest.raises(ValueError, match="holds a password") as refused:
        Recipe.model_validate(data)
    assert SECRET not in str(refused.value)


def test_a_store_with_a_password_is_refused():
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY") as refused:
        Store(f"s3://key:{SECRET}@bucket/store")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["http://h:5000/a@b", "s3://bucket/a:b@c", "user@host:path", "sqlite:////a/b.db", "C:\\a@b"],
)
def test_what_holds_no_password(text):
    assert not holds_secret(text)


def test_logins_are_left_out_of_a_text():
    assert without_secrets("GET http://u:p@ss:w@h/x?y failed, s3://t@b too") == "GET http://h/x?y failed, s3://b too"
