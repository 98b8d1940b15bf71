"""Every kind of error the configuration can raise has words of its own, and a misspelt name its meaning."""

import copy

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from softalign.config import (
    CocoSource,
    MMDiTTokensConfig,
    ParquetSource,
    Recipe,
    ShapesSource,
    UNetTokensConfig,
    load_recipe,
    recipe_names,
)
from softalign.config.loading import read_yaml, yaml_problem
from softalign.errors import ConfigError
from softalign.problems import NEEDS, PATTERNS, PURPOSES, did_you_mean, field_paths, models_at, need_of, problems

OWN_SENTENCES = {"missing", "extra_forbidden", "value_error"}
LIMITS = {"ge": "greater_than_equal", "gt": "greater_than", "le": "less_than_equal", "lt": "less_than"}
RAISED = {
    "int": {"int_type", "int_parsing", "int_from_float", "int_parsing_size"},
    "float": {"float_type", "float_parsing", "finite_number"},
    "bool": {"bool_type", "bool_parsing"},
    "str": {"string_type", "string_unicode"},
    "literal": {"literal_error"},
    "tuple": {"tuple_type"},
    "model": {"model_type"},
    "model-fields": {"missing", "extra_forbidden"},
    "tagged-union": {"union_tag_invalid", "union_tag_not_found"},
    "function-after": {"value_error"},
    "function-before": {"value_error"},
    **{kind: set() for kind in ("nullable", "default", "model-field", "union", "definitions", "definition-ref")},
}
"""What each kind of node of pydantic's schema can raise, limits apart."""
EXAMPLES = {
    "int_type": ("train.num_steps", [], "train.num_steps: a whole number is needed (found [])"),
    "int_parsing": ("train.num_steps", "many", "train.num_steps: a whole number is needed (found 'many')"),
    "int_from_float": ("train.num_steps", 1.5, "train.num_steps: a whole number is needed (found 1.5)"),
    "int_parsing_size": ("train.num_steps", "9" * 5000, "train.num_steps: a smaller number is needed (found '999"),
    "float_type": ("evaluate.scale", [], "evaluate.scale: a number is needed (found [])"),
    "float_parsing": ("evaluate.scale", "much", "evaluate.scale: a number is needed (found 'much')"),
    "finite_number": ("evaluate.scale", float("inf"), "evaluate.scale: a finite number is needed (found infinity)"),
    "bool_type": ("evaluate.use_ema", [], "evaluate.use_ema: true or false is needed (found [])"),
    "bool_parsing": ("evaluate.use_ema", "perhaps", "evaluate.use_ema: true or false is needed (found 'perhaps')"),
    "string_type": ("name", 12, "name: text is needed; put quotes around what looks like a number"),
    "string_unicode": ("name", "\ud800", "name: text is needed, without halves"),
    "string_too_short": ("backbone.vae", "", "backbone.vae: it must not be empty (found '')"),
    "string_too_long": ("name", "n" * 101, "name: at most 100 characters are allowed (found 'nnn"),
    "string_pattern_mismatch": ("name", "A b", "name: it must be lower-case letters, digits and dashes, with"),
    "literal_error": (
        "backbone.family",
        "SD15",
        "backbone.family: it must be one of sd15, sd21, sdxl, sd3, sd35 (found 'SD15'); did you mean sd15?",
    ),
    "greater_than": ("train.optimizer.learning_rate", 0, "train.optimizer.learning_rate: it must be above 0 (found 0)"),
    "greater_than_equal": ("train.num_steps", 0, "train.num_steps: it must be at least 1 (found 0)"),
    "less_than": ("train.ema_decay", 1.0, "train.ema_decay: it must be below 1 (found 1.0)"),
    "less_than_equal": (
        "train.negatives.max_similarity",
        2,
        "train.negatives.max_similarity: it must be at most 1 (found 2)",
    ),
    "multiple_of": ("backbone.resolution_px", 33, "backbone.resolution_px: it must be a multiple of 8 (found 33)"),
    "tuple_type": ("curation.sources", "x", "curation.sources: a list is needed, such as [a, b] (found 'x')"),
    "too_short": ("curation.sources", [], "curation.sources: at least one entry is needed (found [])"),
    "model_type": ("evaluate", 3, "evaluate: a section is needed, with fields of its own (found 3)"),
    "missing": ("register", {}, "register.name is missing: the name under which the adapter is registered, such as"),
    "extra_forbidden": ("train.num_stepz", 3, "train.num_stepz: there is no such field; did you mean train.num_steps?"),
    "union_tag_invalid": (
        "curation.sources",
        [{"type": "coc"}],
        "curation.sources.0: its type must be one of shapes, coco, parquet, table, folder, webdataset, hf "
        "(found 'coc'); did you mean coco?",
    ),
    "union_tag_not_found": (
        "curation.sources",
        [{}],
        "curation.sources.0: its type must be one of shapes, coco, parquet, table, folder, webdataset, hf "
        "(found nothing)",
    ),
    "value_error": (
        "train.export_step",
        "best",
        "train: export_step=best and early_stop_patience have no effect without",
    ),
}
"""For each type of error: a field, a value that raises it, and what is said."""


def with_value(path, value):
    """Return the U-Net recipe's mapping with one field set."""
    recipe = load_recipe("shapes-unet")
    data = recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)
    *sections, field = path.split(".")
    target = data
    for section in sections:
        target = target.setdefault(section, {})
    target[field] = value
    if path == "train.export_step":
        data["train"]["validate_every_steps"] = 0
    return data


def problems_of(data):
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(data)
    return {item["type"] for item in caught.value.errors()}, problems(caught.value, Recipe)


def raisable(node):
    """Return the types of error that a node of pydantic's schema and those within it can raise."""
    if isinstance(node, list | tuple):
        return set().union(*map(raisable, node))
    if not isinstance(node, dict):
        return set()
    found = set().union(
        *(raisable(value) for key, value in node.items() if key not in {"metadata", "serialization", "function"})
    )
    if isinstance(node.get("type"), str) and "config" not in node.get("type"):
        found |= RAISED.get(node["type"], {f"a schema node of type {node['type']}"})
        found |= {error for limit, error in LIMITS.items() if limit in node}
        found |= {"multiple_of"} if "multiple_of" in node else set()
        found |= {"string_pattern_mismatch"} if "pattern" in node else set()
        lengths = ("string_too_short", "string_too_long") if node["type"] == "str" else ("too_short", "too_long")
        found |= {error for limit, error in zip(("min_length", "max_length"), lengths, strict=True) if limit in node}
    return found


def all_models(model=Recipe):
    for name in model.model_fields:
        for inner in models_at((model.model_fields[name].alias or name,), model):
            yield inner
            yield from all_models(inner)


def test_the_table_has_every_error_that_the_configuration_can_raise():
    raised = raisable(Recipe.__pydantic_core_schema__)
    assert raised == set(EXAMPLES)
    assert raised <= set(NEEDS) | OWN_SENTENCES


@pytest.mark.parametrize("kind", EXAMPLES)
def test_each_kind_of_error_is_one_plain_sentence(kind):
    path, value, said = EXAMPLES[kind]
    kinds, (sentence,) = problems_of(with_value(path, value))
    assert kind in kinds
    assert sentence.startswith(said)


def test_an_unknown_kind_of_error_and_a_circle_have_sentences_too():
    assert need_of({"type": "of_another_version", "loc": (), "msg": "", "input": 1}) == "another value is needed"
    circle = []
    circle.append(circle)
    assert problems_of(with_value("curation.sources", circle))[1]


def test_every_pattern_and_every_required_field_is_described():
    models = {Recipe, *all_models()}
    assert {CocoSource, ParquetSource, ShapesSource, UNetTokensConfig, MMDiTTokensConfig} <= models
    required = {
        f"{model.__name__}.{field.alias or name}"
        for model in models
        for name, field in model.model_fields.items()
        if field.is_required()
    }
    assert required == set(PURPOSES)
    patterns = {part.pattern for model in models for f in model.model_fields.values() for part in metadata_of(f)}
    assert patterns == set(PATTERNS)


def metadata_of(field):
    nested = [
        part for argument in getattr(field.annotation, "__args__", ()) for part in getattr(argument, "__metadata__", ())
    ]
    inner = [one for part in nested for one in getattr(part, "metadata", [part])]
    return [part for part in (*field.metadata, *inner) if getattr(part, "pattern", None)]


WRONG = [None, [], {}, "x", "", -1, 1.5, True, 10**400, "\ud800", [None], {"x": 1}]


@pytest.mark.parametrize("value", WRONG, ids=[str(index) for index in range(len(WRONG))])
def test_no_wrong_value_anywhere_is_answered_in_pydantics_words(value):
    recipe = load_recipe("shapes-unet").model_dump(mode="json", by_alias=True)
    num_refused = 0
    for path in field_paths(Recipe):
        data = copy.deepcopy(recipe)
        *sections, field = path.split(".")
        target = data
        for section in sections:
            target[section] = target[section] or {}  # a section that is left open
            target = target[section]
        target[field] = value
        try:
            Recipe.model_validate(data)
        except ValidationError as error:
            num_refused += 1
            text = "\n".join(problems(error, Recipe))
            for word in ("Input", "Extra", "should", " valid ", "Field", "pydantic", "constrained", "literal["):
                assert word not in text, text
    assert num_refused > 10


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("trian", "did you mean train?"),
        ("train.optimiser", "did you mean train.optimizer?"),
        ("learning_rate", "did you mean train.optimizer.learning_rate?"),
        ("train.learning_rate", "did you mean train.optimizer.learning_rate?"),
        ("train.soft_tokens.num_tokens", "did you mean train.soft_tokens.num_soft_tokens?"),
        ("runtime.devices", "did you mean runtime.device?"),
        ("surprise", "fields here: backbone, curation, encode, evaluate, name, register, runtime, train"),
    ],
)
def test_a_misspelt_or_misplaced_field_is_told_which_was_meant(path, meant):
    with pytest.raises(ConfigError) as caught:
        load_recipe("shapes-unet", [f"{path}=1"])
    assert f"    {path}: there is no such field; {meant}" in str(caught.value).splitlines()
    assert f"recipe shapes-unet with --set {path}=1" in caught.value.where


def test_a_value_that_fits_none_of_several_kinds_is_one_problem():
    _, sentences = problems_of(with_value("runtime.micro_batch_size", "many"))
    assert sentences == ["runtime.micro_batch_size: a whole number is needed, or it must be auto (found 'many')"]


def test_a_list_whose_entries_are_wrong_is_not_also_called_empty():
    _, sentences = problems_of(with_value("train.soft_tokens.blocks", ["sid"]))
    assert sentences == ["train.soft_tokens.blocks.0: it must be one of down, mid, up (found 'sid'); did you mean mid?"]


def test_a_default_that_follows_a_wrong_field_is_no_second_problem():
    data = with_value("backbone.family", "SD15")
    del data["backbone"]["model"]
    assert [sentence.partition(":")[0] for sentence in problems_of(data)[1]] == ["backbone.family"]


def test_a_field_of_another_kind_is_told_to_have_no_effect():
    kinds = {
        "train.objective.logit_scale": "the objective 'agsm'",
        "train.optimizer.restart_period_steps": "the schedule 'constant'",
        "train.soft_tokens.num_layers": "a U-Net",
    }
    for path, kind in kinds.items():
        assert problems_of(with_value(path, 3))[1] == [f"{path}: it has no effect with {kind}; remove it"]
    source = {"type": "coco", "annotations_uri": "a", "images_uri": "i", "seed": 3}
    _, sentences = problems_of(with_value("curation.sources", [source]))
    assert sentences == ["curation.sources.0.seed: it has no effect with the type 'coco'; remove it"]


def test_names_that_are_like_nothing_have_no_suggestion():
    assert did_you_mean("zebra", ["train", "encode"]) == ""
    assert did_you_mean("TRIAN", ["train", "encode"]) == "; did you mean train?"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shaps", "There is no recipe named 'shaps'; did you mean shapes?"),
        ("mine", "There is no recipe named 'mine'; did you mean mine.yaml?"),
        ("zebra", "There is no recipe named 'zebra'."),
        ("folder", "There is no recipe named 'folder'."),
        ("folder.yaml", "The recipe is a folder."),
        ("mne.yaml", "There is no such recipe file."),
    ],
)
def test_a_recipe_that_is_not_there_is_told_which_was_meant(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_recipe(name)
    assert caught.value.what == said
    assert name != "mne.yaml" or "did you mean mine.yaml?" in str(caught.value)
    assert name != "folder" or "softalign init" in str(caught.value)
    assert "shapes" in recipe_names()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\n\tb: 1", "line 2, column 1: a tab stands where only spaces may"),
        ("a: [1", "line 1, column 6: a list that begins with [ has no ]"),
        ("a: {b: 1", "line 1, column 9: a section that begins with {"),
        ("a: b: c", "line 1, column 5: a colon too many"),
        ("name x\ncur: 1", "line 2, column 4: a colon too many, or a line before it without its colon"),
        ("a: 'x", "line 1, column 6: a text that begins with a quote has no quote at its end"),
        ("a:\n  - b\n c: 1", "line 3, column 2: this line is indented otherwise"),
        ("a: *x", "line 1, column 4: a * begins the value"),
        ("a: @x", "line 1, column 4: a value begins with a character that YAML keeps for itself"),
        ('a: "\\q"', "line 1, column 6: a backslash within double quotes"),
        ("a: !!python/x y", "line 1, column 4: a ! begins the value"),
        ("a: 1\n---\nb: 1", "line 2, column 1: a second document begins here"),
        ("? [a]\n: 1", "line 1, column 3: a name must be plain text"),
        ("a: 1\na: 2", "line 2, column 1: the key 'a' stands twice"),
        ("a: \x00", "unacceptable character"),
    ],
)
def test_yaml_errors_say_where_and_what_in_words(text, said):
    with pytest.raises(yaml.YAMLError) as caught:
        read_yaml(text)
    words = yaml_problem(caught.value)
    assert words.startswith(said)
    assert ("^" in words) == words.startswith("line")


def test_the_models_of_other_files_have_plain_errors_too():
    class Row(BaseModel):
        count: int

    with pytest.raises(ValidationError) as caught:
        Row.model_validate({"count": "x"})
    assert problems(caught.value) == ["count: a whole number is needed (found 'x')"]
    with pytest.raises(ValidationError) as caught:
        Row.model_validate_json("{")
    assert problems(caught.value) == ["valid JSON is needed (found '{')"]
