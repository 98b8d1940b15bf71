"""Each row of the method's table of differences between paper and code, and the numbers that depend on the family."""

import pytest
from pydantic import ValidationError

from softalign.config import AGSMConfig, BackboneConfig, ConstantConfig, Recipe, TrainConfig, load_recipe
from softalign.problems import problems
from softalign.training.learning_rate import learning_rate_at

FAMILIES = ("sd15", "sd21", "sdxl", "sd3", "sd35")


def recipe(family, **objective):
    data = load_recipe("shapes-unet").model_dump(mode="json", by_alias=True)
    data["backbone"] = {"family": family}
    del data["evaluate"]["unconditional_bank"]
    data["train"] = {"objective": objective}
    return Recipe.model_validate(data)


def objective_of(family, **objective):
    return recipe(family, **objective).train.objective


def test_the_unet_recipe_keeps_its_numbers():
    assert load_recipe("shapes-unet").train.objective.model_dump() == {
        "name": "agsm",
        "weights": "plackett_luce",
        "banks": "dual",
        "gamma_positive": 1.0,
        "gamma_negative": 1.0,
        "preset": None,
        "temperature": 0.1,
        "reward_reduction": "mean",
    }
    assert load_recipe("shapes-unet").train.objective == AGSMConfig()
    assert load_recipe("shapes-unet").train.optimizer == ConstantConfig(learning_rate=0.003)


@pytest.mark.parametrize("family", FAMILIES)
def test_exponent_of_paper_code_and_neither(family):
    def exponent(preset):
        resolved = objective_of(family, preset=preset)
        return resolved.reward_reduction, resolved.temperature

    assert exponent("paper") == ("sum", 1.0)
    assert exponent("code") == exponent(None) == ("mean", 0.1)


@pytest.mark.parametrize(
    ("family", "paper", "code", "unset"),
    [
        ("sd15", 1.0, 1.0, 1.0),
        ("sd21", 1.0, 1.0, 1.0),
        ("sdxl", 1.0, 0.1, 1.0),
        ("sd3", 0.1, 0.1, 0.1),
        ("sd35", 0.1, 0.1, 0.1),
    ],
)
def test_negative_gamma_by_family_and_preset(family, paper, code, unset):
    found = [objective_of(family, preset=preset) for preset in ("paper", "code", None)]
    assert [objective.gamma_negative for objective in found] == [paper, code, unset]
    assert {objective.gamma_positive for objective in found} == {1.0}


@pytest.mark.parametrize(("family", "weight"), zip(FAMILIES, (10.0, 10.0, 10.0, 0.0, 0.0), strict=True))
def test_denoising_weight_by_family(family, weight):
    assert objective_of(family, name="softrepa").denoising_weight == weight


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_codes_sdxl_samples_with_the_negative_bank(family):
    banks = {preset: recipe(family, preset=preset).evaluate.unconditional_bank for preset in ("paper", "code", None)}
    assert banks == {"paper": "positive", "code": "negative" if family == "sdxl" else "positive", None: "positive"}


def test_the_unconditional_bank_of_a_recipe_wins_and_must_exist():
    def evaluated(objective, **evaluate):
        data = recipe("sdxl", **objective).model_dump(mode="json", by_alias=True)
        del data["evaluate"]["unconditional_bank"]
        return Recipe.model_validate({**data, "evaluate": {**data["evaluate"], **evaluate}}).evaluate

    code = {"preset": "code"}
    assert evaluated(code).unconditional_bank == "negative"
    assert evaluated(code, unconditional_bank="positive").unconditional_bank == "positive"
    assert evaluated({}, unconditional_bank="negative").unconditional_bank == "negative"
    assert evaluated(code, guidance_scale=1.0).unconditional_bank == "positive"
    assert evaluated({**code, "banks": "shared"}).unconditional_bank == "positive"
    with pytest.raises(ValidationError, match="trains no psi-"):
        evaluated({"name": "softrepa"}, unconditional_bank="negative")
    with pytest.raises(ValidationError, match="no effect at guidance_scale 1"):
        evaluated(code, unconditional_bank="negative", guidance_scale=1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_papers_upper_blocks_are_the_last_and_the_codes_the_first(family):
    found = [recipe(family, preset=preset).train.soft_tokens for preset in ("paper", "code", None)]
    ends = [getattr(soft, "layers", None) for soft in found]
    assert ends == (["last", "first", "first"] if family.startswith("sd3") else [None, None, None])
    if family.startswith("sd3"):
        assert all(soft.num_layers == 5 for soft in found)
        data = recipe(family).model_dump(mode="json", by_alias=True)
        own = {"layers": "first"}
        data["train"] = {"objective": {"preset": "paper"}, "soft_tokens": own}
        assert Recipe.model_validate(data).train.soft_tokens.layers == "first"


@pytest.mark.parametrize(("preset", "period"), [("paper", 1000), ("code", 70), (None, None)])
def test_restarts_by_step_or_by_validation(preset, period):
    def optimizer(**given):
        data = recipe("sd15").model_dump(mode="json", by_alias=True)
        train = {"objective": {"preset": preset}, "validate_every_steps": 7, "optimizer": given}
        return Recipe.model_validate({**data, "train": train}).train.optimizer

    found = optimizer(learning_rate=0.5)
    assert found.schedule == ("cosine_restarts" if preset else "constant")
    assert getattr(found, "restart_period_steps", None) == period
    assert found.learning_rate == 0.5
    assert not hasattr(optimizer(schedule="constant"), "restart_period_steps")
    assert optimizer(schedule="cosine_restarts", restart_period_steps=3).restart_period_steps == 3
    rates = {learning_rate_at(found, step, 1000) for step in (0, 69, 70)}
    assert len(rates) == {"paper": 3, "code": 2, None: 1}[preset]


def test_the_code_without_validations_restarts_as_the_paper():
    data = recipe("sd15").model_dump(mode="json", by_alias=True)
    data["train"] = {"objective": {"preset": "code"}, "validate_every_steps": 0}
    assert Recipe.model_validate(data).train.optimizer.restart_period_steps == 1000


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_what_a_recipe_says_itself_wins(preset):
    said = {"gamma_negative": 0.5, "temperature": 0.2, "reward_reduction": "mean"}
    found = objective_of("sdxl", preset=preset, **said).model_dump()
    assert {name: found[name] for name in said} == said
    assert objective_of("sd3", name="softrepa", denoising_weight=10.0).denoising_weight == 10.0


def test_null_is_unset_and_a_training_configuration_may_be_an_object():
    assert objective_of("sd3", gamma_negative=None).gamma_negative == 0.1
    shapes = load_recipe("shapes-unet")
    data = {name: getattr(shapes, name) for name in Recipe.model_fields} | {"register": shapes.register_}
    data = {**data, "train": TrainConfig(objective=AGSMConfig(preset="code"))}
    data["backbone"] = BackboneConfig(family="sdxl")
    del data["register_"]
    assert Recipe(**data).train.objective.gamma_negative == 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("objective", [{"preset": "paper"}, {"preset": "code"}, {}, {"name": "softrepa"}], ids=str)
def test_resolved_numbers_survive_json_and_are_in_the_digest(family, objective):
    first = recipe(family, **objective)
    again = Recipe.model_validate_json(first.model_dump_json(by_alias=True))
    assert again == first
    assert TrainConfig.model_validate_json(first.train.model_dump_json()).digest == first.train.digest
    explicit = first.train.objective.model_dump()
    assert TrainConfig(**{**dict(first.train), "objective": explicit}).digest == first.train.digest


def test_presets_and_families_are_different_requests():
    digests = {
        recipe(family, preset=preset).train.digest for family in ("sd15", "sdxl") for preset in ("paper", "code")
    }
    assert len(digests) == 4
    assert TrainConfig().objective.gamma_negative == 1.0


def test_a_calibrated_temperature_makes_the_reduction_irrelevant():
    calibrated = objective_of("sd15", temperature="calibrated", preset="paper")
    assert (calibrated.temperature, calibrated.reward_reduction) == ("calibrated", "mean")
    with pytest.raises(ValidationError, match=r"reward_reduction has no effect .* calibrated temperature"):
        AGSMConfig(temperature="calibrated", reward_reduction="sum")


@pytest.mark.parametrize("name", ["softrepa", "score_matching"])
def test_presets_are_for_agsm(name):
    with pytest.raises(ValidationError) as caught:
        objective_of("sd15", name=name, preset="paper")
    sentence = f"train.objective.preset: it has no effect with the objective {name!r}; remove it"
    assert sentence in problems(caught.value, Recipe)
