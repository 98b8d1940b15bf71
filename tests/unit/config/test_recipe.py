"""Recipes: overrides, all problems at once, and every field part of the request it belongs to."""

import pytest
import yaml
from pydantic import ValidationError

from softalign.artifacts import digest_of
from softalign.config import (
    AGSMConfig,
    BackboneConfig,
    CocoSource,
    CosineRestartsConfig,
    CurationConfig,
    EncodeConfig,
    EvalConfig,
    FilterConfig,
    MMDiTTokensConfig,
    ParquetSource,
    PromotionPolicy,
    Recipe,
    RegisterConfig,
    Runtime,
    ShapesSource,
    SoftREPAConfig,
    TrainConfig,
    UNetTokensConfig,
    load_recipe,
    recipe_names,
)
from softalign.config.objective import OBJECTIVES
from softalign.errors import ConfigError

SOURCES = (
    ShapesSource(),
    CocoSource(annotations_uri="a", images_uri="i"),
    ParquetSource(table_uri="t", images_uri="i"),
)
STAGES = {
    "curation": CurationConfig(name="n", sources=SOURCES, image_format="jpg"),
    "backbone": BackboneConfig(model="own/copy"),
    "backbone of an MMDiT": BackboneConfig(family="sd3", model="an-mmdit"),
    "encode": EncodeConfig(),
    "train": TrainConfig(negatives={"num_hard": 1}),
    "train an MMDiT's": TrainConfig(soft_tokens=MMDiTTokensConfig()),
    "softrepa": TrainConfig(objective=SoftREPAConfig()),
    "calibrated": TrainConfig(objective=AGSMConfig(temperature="calibrated")),
    "restarts": TrainConfig(optimizer=CosineRestartsConfig()),
    "evaluate": EvalConfig(),
    "register": RegisterConfig(name="n"),
}


def leaves(data, path=()):
    """Yield the path of every value in nested mappings and lists of mappings."""
    for name, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def candidates(value):
    """Return other values to try; the first valid one is a mutation of the field."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value + 8, value * 0.9, value / 2]
    if isinstance(value, list):
        clip_score = {"type": "clip_score", "model": "m", "min_score": 0.2}
        scored = [{"name": "pick_score", "model": "m"}]
        bound = {"metric": "overall_adapter", "at_least": 0.5}
        return [value[:1], ["up"], [bound], ["latin"], [clip_score], [33.0], scored]
    if value is None:
        return ["main", 1.0, "paper", 64, {"reference": "r.npz", "features": "m"}]
    literals = (
        "parquet",
        "coco",
        "sd21",
        "sd35",
        "normal",
        "bradley_terry",
        "shared",
        "sum",
        "per_image",
        "cosine",
        "shapes",
        "negative",
        "last",
        "best",
        "none",
        "webp",
        "online",
        "above",
        "when_decided",
        "padding",
    )
    return [*literals, f"{value}-other", 0.5]


def mutated(config, path):
    """Return the configuration with one field set to another valid value, or None where only one value is valid."""
    for index in range(len(candidates(_at(config.model_dump(mode="json"), path)))):
        data = config.model_dump(mode="json")
        value = _at(data, path)
        _at(data, path[:-1])[path[-1]] = candidates(value)[index]
        if _at(data, path) == value:
            continue
        try:
            return type(config).model_validate(data)
        except ValidationError:
            continue
    return None


def _at(data, path):
    for part in path:
        data = data[part]
    return data


KINDS = {("objective", "name")}
"""Change only together with their kind's own fields: see ``test_objectives_differ``."""
CASES = [
    (stage, path)
    for stage, config in STAGES.items()
    for path in leaves(config.model_dump(mode="json"))
    if path not in KINDS
]
ONE_VALUE = {"type"}
"""Fields that name a kind, with a single legal value where they stand."""
OF_MMDITS = {"has_t5", "max_sequence_length"}
"""Refused in a U-Net's configuration, mutated in an MMDiT's."""
OF_EDITS = {"kinds", "counts"}
"""Refused without hard negatives, mutated where there are some."""


@pytest.mark.parametrize(("stage", "path"), CASES, ids=str)
def test_every_field_changes_the_digest(stage, path):
    config = STAGES[stage]
    other = mutated(config, path)
    if other is None:
        is_of_mmdits = _at(config.model_dump(mode="json"), path) is None and path[-1] in OF_MMDITS
        is_moot = (stage, path[-1]) == ("calibrated", "reward_reduction")
        has_one_value = path[-1] in ONE_VALUE or (stage, path[-1]) == ("restarts", "schedule")
        is_of_edits = path[-1] in OF_EDITS and config.negatives.num_hard == 0
        assert has_one_value or is_of_mmdits or is_moot or is_of_edits, "no other valid value was found"
    else:
        assert other.digest != config.digest


def test_the_mutations_reach_nearly_every_field():
    reached = [path for stage, path in CASES if mutated(STAGES[stage], path) is not None]
    assert len(reached) >= 0.8 * len(CASES)


def test_objectives_differ():
    kinds = [kind() for kind in OBJECTIVES.values()] + [AGSMConfig(temperature="calibrated")]
    assert len({TrainConfig(objective=kind).digest for kind in kinds}) == len(kinds)


def test_equal_fields_of_other_stages_have_other_digests():
    assert len({config.digest for config in STAGES.values()}) == len(STAGES)
    assert TrainConfig().digest == TrainConfig(num_steps=1000).digest


def test_runtime_is_in_no_digest():
    assert not hasattr(Runtime(), "digest")
    stages = {"curation", "backbone", "encode", "train", "evaluate", "register_"}
    assert {name for name in Recipe.model_fields if hasattr(Recipe.model_fields[name].annotation, "digest")} == stages


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_loads(name):
    assert load_recipe(name).name


@pytest.mark.parametrize("value", ["2024-13-01", "!!timestamp x", "2024-99-99"])
def test_what_looks_like_a_date_and_is_none_is_said(value):
    with pytest.raises(ConfigError, match="looks like a date"):
        load_recipe("shapes", [f"train.init_from={value}"])


def test_an_override_reaches_into_a_section_without_a_value(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: a\ncuration: {name: a, sources: [{type: shapes}]}\nregister: {name: a}\nruntime:\ntrain: {objective: }\n"
    )
    recipe = load_recipe(str(path), ["runtime.device=cpu", "train.objective.name=softrepa"])
    assert (recipe.runtime.device, recipe.train.objective.name) == ("cpu", "softrepa")


def test_overrides_are_read_as_yaml():
    overrides = ["train.num_steps=7", "train.optimizer.learning_rate=1e-2", "evaluate.use_ema=true", "name=other"]
    recipe = load_recipe("shapes-unet", [*overrides, "backbone.revision=null", "train.soft_tokens.blocks=[mid]"])
    assert recipe.train.num_steps == 7
    assert recipe.train.optimizer.learning_rate == 0.01
    assert recipe.evaluate.use_ema
    assert (recipe.name, recipe.backbone.revision, recipe.train.soft_tokens.blocks) == ("other", None, ("mid",))


def test_the_number_of_processes_is_set_where_no_engine_is_named():
    assert load_recipe("shapes", ["runtime.engine.num_processes=2"]).runtime.engine.num_processes == 2
    with pytest.raises(ConfigError, match="its name must be one of local, ray"):
        load_recipe("shapes", ["runtime.engine.address=head:6379"])


def test_guidance_costs_a_second_denoiser_call_a_step():
    config = load_recipe("shapes").evaluate
    assert config.denoiser_calls_per_image == config.num_inference_steps
    assert config.of_arm("guided_base").denoiser_calls_per_image == 2 * config.num_inference_steps
    with pytest.raises(ConfigError, match=r"reference_guidance_scale has no effect: 2\.0 is the arms' guidance"):
        load_recipe("shapes", ["evaluate.guidance_scale=2"])


def test_a_sweep_over_guidance_that_adds_nothing_or_says_it_twice_is_refused():
    swept = load_recipe("shapes", ["evaluate.guidance_sweep=[1,3]"]).evaluate
    assert swept.swept_arms == (("base", 3.0), ("untrained", 3.0), ("adapter", 3.0))
    assert (
        swept.at_guidance(3.0)
        == load_recipe("shapes", ["evaluate.guidance_scale=3", "evaluate.reference_guidance_scale=null"]).evaluate
    )
    for said, fault in (
        ("[1]", "has no effect"),
        ("[2,2]", "names a guidance twice"),
        ("[0.5]", "must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=fault):
            load_recipe("shapes", [f"evaluate.guidance_sweep={said}"])


def test_metrics_are_of_the_compared_arms_alone_and_in_no_request_where_there_are_none():
    plain = load_recipe("shapes").evaluate
    asked = load_recipe("shapes", ["evaluate.metrics=[{name: clip_score, model: m}]", "evaluate.guidance_sweep=[1,3]"])
    assert "metrics" not in plain.asked()
    assert asked.evaluate.asked()["metrics"][0]["name"] == "clip_score"
    assert len(asked.evaluate.of_arm("adapter").metrics) == len(asked.evaluate.of_arm("base").metrics) == 1
    assert asked.evaluate.of_arm("guided_base").metrics == asked.evaluate.at_guidance(3.0).metrics == ()
    twice = "{name: clip_score, model: a}, {name: clip_score, model: b}"
    for said, fault in (
        (f"[{twice}]", "names a metric twice"),
        ("[{name: clip_score}]", "model"),
        ("[fid]", "metrics"),
    ):
        with pytest.raises(ConfigError, match=fault):
            load_recipe("shapes", [f"evaluate.metrics={said}"])


def test_a_later_override_wins_and_the_recipe_is_untouched():
    assert load_recipe("shapes", ["train.num_steps=1", "train.num_steps=2"]).train.num_steps == 2
    assert load_recipe("shapes").train.num_steps != 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.num_steps", "malformed"),
        ("=3", "malformed"),
        ("train..num_steps=3", "malformed"),
        (".num_steps=3", "malformed"),
        ("train.=3", "malformed"),
        ("name.deeper=3", "reaches into a value"),
        ("curation.sources.seed=3", "reaches into a value"),
        ("train.num_steps=[1", "not valid YAML"),
        ("train.num_stepz=3", r"train\.num_stepz: there is no such field; did you mean train\.num_steps\?"),
        ("train.num_steps=0", r"train\.num_steps: .* \(found 0\)"),
        ("train.num_steps=many", r"train\.num_steps: .* \(found 'many'\)"),
        ("train.num_steps=1.5", r"train\.num_steps"),
        ("train.batch_size=1", r"train\.batch_size"),
        ("train.negatives.num_negatives=4", "4 other captions of a batch of 4, which has 3"),
        ("train.negatives={num_negatives: 8, num_hard: 4}", "4 other captions of a batch of 4, which has 3"),
        ("train.negatives.num_negatives=0", r"train\.negatives\.num_negatives"),
        ("train.negatives.num_hard=4", "num_hard is 4, but each image has 3 negatives in all"),
        ("train.negatives.num_hard=0.5", r"train\.negatives\.num_hard: a whole number is needed"),
        ("train.negatives.hard_share=1.5", r"train\.negatives\.num_hard is the number of hard negatives of an image"),
        ("train.negatives.max_similarity=-1", r"train\.negatives\.max_similarity"),
        ("train={objective: {name: score_matching}, negatives: {num_negatives: 2}}", "no effect with the objective"),
        ("train.negatives.kinds=[count]", "no effect without num_hard"),
        ("train.negatives.counts=above", "no effect without num_hard"),
        ("train.negatives={num_hard: 1, kinds: [color], counts: below}", "kinds does not name count"),
        ("train.negatives={num_hard: 1, kinds: []}", r"train\.negatives\.kinds"),
        ("train.negatives={num_hard: 1, kinds: [count, count]}", "a kind is named twice"),
        ("train.negatives={num_hard: 1, kinds: [colour]}", r"train\.negatives\.kinds"),
        ("train.negatives.num_hard=-1", r"train\.negatives\.num_hard"),
        ("train.ema_decay=1.0", r"train\.ema_decay"),
        ("train.optimizer.learning_rate=.inf", "finite"),
        ("evaluate.guidance_scale=.nan", r"evaluate\.guidance_scale"),
        ("backbone.resolution_px=33", r"backbone\.resolution_px"),
        ("train.soft_tokens.blocks=[]", r"blocks"),
        ("train.soft_tokens.blocks=[side]", r"blocks"),
        ("train.objective.logit_scale=4", "no effect with the objective 'agsm'"),
        ("curation.sources=[]", r"curation\.sources"),
        (
            "curation.sources=[{type: csv}]",
            "must be one of shapes, coco, parquet, table, folder, webdataset, hf .found 'csv'",
        ),
        ("curation.sources=[{type: shapes, seed: -1}]", "seed"),
        ("curation.sources=[{type: shapes, wrong_share: 0.6, incomplete_share: 0.6}]", "more than 1"),
        ("curation.filters.min_caption_chars=2000", "no caption could pass"),
        ("curation.name=Not A Name", r"curation\.name"),
        ("register.name=a/b", r"register\.name"),
        ("surprise=1", "surprise: there is no such field; fields here: backbone, curation"),
        ("train=[]", "train: a section is needed"),
    ],
)
def test_a_bad_override_is_refused_before_anything_runs(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe("shapes", [override])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("negatives", "num"),
    [
        ({}, 3),
        ({"num_negatives": 1}, 1),
        ({"num_hard": 2}, 3),
        ({"num_hard": 3}, 3),
        ({"num_negatives": 6, "num_hard": 3}, 6),
        ({"num_negatives": 5, "num_hard": 2}, 5),
    ],
)
def test_how_many_negatives_of_which_kind(negatives, num):
    chosen = load_recipe("shapes", [f"train.negatives={negatives}"]).train.negatives
    assert (chosen.num_of(4), chosen.num_hard) == (num, negatives.get("num_hard", 0))


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: twice\ntrain:\n  num_steps: 1\n  batch_size: 2\n  num_steps: 3\n")
    with pytest.raises(ConfigError, match="line 5, column 3: the key 'num_steps' stands twice"):
        load_recipe(str(path))


@pytest.mark.parametrize("field", ["name", "curation.name", "register.name"])
def test_names_are_short_enough_for_a_record(field):
    load_recipe("shapes", [f"{field}={'n' * 100}"])
    with pytest.raises(ConfigError, match=f"{field}: .*at most 100 characters"):
        load_recipe("shapes", [f"{field}={'n' * 101}"])


def test_a_problem_of_a_whole_section_is_one_plain_sentence():
    with pytest.raises(ConfigError) as caught:
        load_recipe("shapes-unet", ["train.soft_tokens={placement: mmdit}", "train.optimizer.num_warmup_steps=300"])
    section = "    train: optimizer.num_warmup_steps is not below num_steps: the schedule would never begin"
    assert str(caught.value).splitlines()[1] == section
    with pytest.raises(ConfigError) as caught:
        load_recipe("shapes-unet", ["train.soft_tokens={placement: mmdit}"])
    whole = "    train.soft_tokens are those of an MMDiT, but the family 'sd21' has a U-Net; correct one of the two"
    assert str(caught.value).splitlines()[1] == whole


def test_all_problems_are_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        load_recipe("shapes", ["train.num_steps=0", "evaluate.suite=none", "typo=1", "register.policy.max_tag_drop=-1"])
    text = str(caught.value)
    assert "4 problems" in text
    assert all(part in text for part in ("train.num_steps", "evaluate.suite", "typo", "register.policy.max_tag_drop"))
    assert "recipe shapes" in text


def test_missing_sections_are_named(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: mine\n")
    with pytest.raises(ConfigError, match=r"(?s)curation is missing: where .*register is missing: the name ") as caught:
        load_recipe(str(path))
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- a\n- b\n", "not a mapping"),
        (b"", "not a mapping"),
        (b"name: \xff\xfe", "UTF-8"),
        (b"a: &a [*a]", "or for themselves"),
        (b"a: &a {b: *a}", "or for themselves"),
        (b"a: " + b"[" * 50_000, "nested too deeply"),
        (b"name: " + b"9" * 5000, "not valid YAML"),
        (
            "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 10)}]" for i in range(40)).encode(),
            "stand for more",
        ),
        (b"name: !!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, content, message):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(path))


def test_unknown_recipes_name_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="shapes"):
        load_recipe("shapez")
    with pytest.raises(ConfigError, match="no such recipe file"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_a_recipe_survives_its_own_json():
    recipe = load_recipe("shapes")
    assert Recipe.model_validate(recipe.model_dump(mode="json", by_alias=True)) == recipe
    assert (
        Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True)))) == recipe
    )


def test_configurations_do_not_change():
    with pytest.raises(ValidationError):
        load_recipe("shapes").train.num_steps = 3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objectives_defaults_are_filled_in_and_no_other(name):
    config = OBJECTIVES[name]()
    own = set(config.model_dump()) - {"name"}
    expected = {
        "agsm": {
            *("preset", "weights", "banks", "gamma_positive", "gamma_negative"),
            *("temperature", "reward_reduction"),
        },
        "softrepa": {"temperature", "logit_scale", "denoising_weight"},
        "score_matching": set(),
    }
    assert own == expected[name]
    assert TrainConfig(objective=config.model_dump()).objective == config
    for field in set().union(*expected.values()) - own:
        with pytest.raises(ConfigError) as caught:
            load_recipe("shapes-unet", [f"train.objective={{name: {name}, {field}: 1.0}}"])
        sentence = f"train.objective.{field}: it has no effect with the objective {name!r}; remove it"
        assert str(caught.value).splitlines()[1].strip() == sentence


@pytest.mark.parametrize("model", [FilterConfig, UNetTokensConfig, EvalConfig, PromotionPolicy, Runtime])
def test_unknown_fields_are_refused_everywhere(model):
    with pytest.raises(ValidationError, match="Extra inputs"):
        model.model_validate({"unknown": 1})


@pytest.mark.parametrize("field", ["has_t5=false", "has_t5=true", "max_sequence_length=77"])
def test_fields_of_an_mmdit_are_refused_for_a_u_net(field):
    with pytest.raises(ConfigError, match="no effect with the family 'sd21'"):
        load_recipe("shapes-unet", [f"backbone.{field}"])


MMDIT = (
    "backbone.family=sd3",
    "backbone.model=an/mmdit",
    "backbone.resolution_px=512",
)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("backbone.resolution_px=520", "multiple of 16"),
        ("train.soft_tokens.num_layers=25", "at most 24 joint blocks"),
        ("train.soft_tokens.blocks=[mid]", "blocks: it has no effect with an MMDiT; remove it"),
        ("train.soft_tokens.placement=unet", "those of a U-Net, but the family 'sd3' has an MMDiT"),
        ("backbone.max_sequence_length=513", "max_sequence_length"),
    ],
)
def test_wrong_combinations_are_refused_when_the_recipe_is_read(override, problem):
    assert load_recipe("shapes-unet", MMDIT).train.soft_tokens.num_layers == 5
    with pytest.raises(ConfigError, match="num_layers: it has no effect with a U-Net; remove it"):
        load_recipe("shapes-unet", ["train.soft_tokens.num_layers=5"])
    with pytest.raises(ConfigError, match=problem):
        load_recipe("shapes-unet", [*MMDIT, override])


def test_sd35_has_more_joint_blocks():
    assert load_recipe("shapes", [*MMDIT, "backbone.family=sd35", "train.soft_tokens.num_layers=38"])


def test_an_mmdits_texts_are_encoded_as_diffusers_does_unless_told():
    config = BackboneConfig(family="sd35", model="m")
    assert (config.has_t5, config.max_sequence_length) == (True, 256)
    assert config.digest != BackboneConfig(family="sd35", model="m", has_t5=False).digest


def test_what_came_later_is_no_part_of_what_is_asked_for_where_it_is_the_default():
    train = TrainConfig(negatives={"num_hard": 1})
    assert train.asked()["negatives"] == {"num_negatives": None, "num_hard": 1, "max_similarity": 0.8}
    assert train.negatives.asked_edits() == {"num_hard": 1}
    assert digest_of(["TrainConfig", train.asked()]) == train.digest
    some = TrainConfig(negatives={"num_hard": 1, "kinds": ["object", "count"], "counts": "below"})
    assert some.asked()["negatives"]["kinds"] == ["count", "object"]
    assert some.negatives.asked_edits() == {"num_hard": 1, "kinds": ["count", "object"], "counts": "below"}
    assert some.digest != train.digest
    drawn, padding = (TrainConfig(soft_tokens={"num_layers": 2, "init": init}) for init in ("normal", "padding"))
    assert "init" not in drawn.asked()["soft_tokens"] and padding.asked()["soft_tokens"]["init"] == "padding"
    assert drawn.digest == TrainConfig(soft_tokens={"num_layers": 2}).digest != padding.digest
