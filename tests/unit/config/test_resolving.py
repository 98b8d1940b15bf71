"""What a recipe leaves open: merged as plain data, the same by every way in, and each value knows where it is from."""

import copy
import itertools

import pytest
import yaml

from softalign.config import (
    AGSMConfig,
    BackboneConfig,
    CosineConfig,
    EvalConfig,
    MMDiTTokensConfig,
    Recipe,
    SoftREPAConfig,
    TrainConfig,
    load_recipe,
)
from softalign.config.explained import MAX_COLUMN
from softalign.config.loading import explain_recipe
from softalign.config.paths import leaves
from softalign.config.resolving import resolve

FRAME = {
    "name": "n",
    "curation": {"name": "n", "sources": [{"type": "coco", "annotations_uri": "a", "images_uri": "i"}]},
    "register": {"name": "n"},
}
OBJECTIVES = ({"preset": "paper"}, {"preset": "code"}, {}, {"name": "softrepa"}, {"temperature": "calibrated"})


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl", "sd3", "sd35"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_every_way_in_resolves_alike_and_resolving_again_changes_nothing(tmp_path, family, objective):
    data = {**FRAME, "backbone": {"family": family}, "train": {"objective": objective, "validate_every_steps": 7}}
    before = copy.deepcopy(data)
    recipe = Recipe.model_validate(data)
    assert data == before
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(data))
    assert load_recipe(str(path)) == Recipe(**data) == recipe
    dump = recipe.model_dump(mode="json", by_alias=True)
    assert Recipe.model_validate(dump) == recipe
    assert resolve(dump).origins == {}


def test_an_object_leaves_open_what_it_was_not_given():
    train = TrainConfig(objective=AGSMConfig(preset="code"), optimizer=CosineConfig(), num_steps=7)
    found = Recipe(**FRAME, backbone=BackboneConfig(family="sdxl"), train=train, evaluate=EvalConfig(seed=3))
    said = {"objective": {"preset": "code"}, "optimizer": {"schedule": "cosine"}, "num_steps": 7}
    assert found == Recipe(**FRAME, backbone={"family": "sdxl"}, train=said, evaluate={"seed": 3})
    softrepa = Recipe(**FRAME, train=TrainConfig(objective=SoftREPAConfig()), backbone={"family": "sd3"})
    assert softrepa.train.objective == SoftREPAConfig(denoising_weight=0.0)
    with pytest.raises(ValueError, match="those of an MMDiT, but the family 'sd15' has a U-Net"):
        Recipe(**FRAME, train=TrainConfig(soft_tokens=MMDiTTokensConfig()))


def test_a_presets_schedule_takes_the_recipes_own_numbers():
    overrides = ["train.objective.preset=code", "train.optimizer={min_learning_rate: 1e-6, restart_period_steps: 9}"]
    found = load_recipe("shapes", overrides).train.optimizer
    assert (found.schedule, found.min_learning_rate, found.restart_period_steps) == ("cosine_restarts", 1e-6, 9)


def test_each_value_says_where_it_comes_from():
    overrides = [
        "train.objective={preset: code}",
        "evaluate.seed=3",
        "runtime.num_workers=3",
        "backbone.model=own/copy",
    ]
    found = explain_recipe("shapes-sd3", [*overrides, "backbone.resolution_px=512", "evaluate.suite=geneval"])
    origins = found.origins
    assert set(origins) == {path for path, _ in leaves(found.values)}
    expected = {
        "name": "recipe",
        "curation.sources.1.num_scenes": "recipe",
        "curation.sources.1.wrong_share": "default",
        "backbone.has_t5": "recipe",
        "backbone.model": "--set",
        "train.soft_tokens.num_layers": "recipe",
        "train.soft_tokens.layers": "preset",
        "train.objective.preset": "--set",
        "train.objective.name": "default",
        "train.objective.temperature": "preset",
        "train.objective.gamma_negative": "family",
        "train.optimizer.learning_rate": "recipe",
        "train.optimizer.schedule": "preset",
        "evaluate.seed": "--set",
        "evaluate.resolution_px": "family",
        "evaluate.num_inference_steps": "recipe",
        "runtime.num_threads": "--set",
        "runtime.device": "default",
    }
    assert {path: origins[path] for path in expected} == expected


@pytest.mark.parametrize("overrides", [[], ["train.objective.preset=paper"], ["train.objective={name: softrepa}"]])
@pytest.mark.parametrize("name", ["shapes", "shapes-unet"])
def test_the_text_of_a_recipe_is_that_recipe(tmp_path, name, overrides):
    awkward = ["backbone.revision='yes # no'", "train.init_from='2026-01-01'", 'runtime.tracking_uri="a\\nb: c"']
    explained = explain_recipe(name, [*overrides, *awkward])
    path = tmp_path / "again.yaml"
    path.write_text(explained.to_text())
    assert load_recipe(str(path)) == explained.recipe
    lines = [line for line in explained.to_text().splitlines() if "  # " in line]
    short = [line for line in lines if line.rindex("  # ") < MAX_COLUMN]
    assert len({line.rindex("#") for line in short}) == 1
    assert set(itertools.chain(line.rpartition("  # ")[2] for line in lines)) >= {"recipe", "default", "--set"}
