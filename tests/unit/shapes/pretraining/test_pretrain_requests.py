"""What `softalign shapes pretrain` is asked for is checked before anything is trained."""

import json
import shutil
import sys

import pytest

from softalign.cli import app
from softalign.errors import ConfigError, MissingInputError
from softalign.shapes import weights_path
from softalign.shapes.pretraining import pretrain as pretraining
from softalign.shapes.pretraining.export import WeightsRecipe, read_recipe, write_recipe
from softalign.shapes.pretraining.models import denoiser_file
from softalign.shapes.pretraining.pretrain import PretrainResult, pretrain
from softalign.shapes.pretraining.recipe import AutoencoderConfig, DenoiserConfig, PretrainConfig, TransformerConfig
from softalign.store.files import sha256_of_file

CONFIG = PretrainConfig(seed=5)
FAMILIES = pytest.mark.parametrize(("family", "name"), [("sd21", "weights"), ("sd3", "weights_sd3")])


class TrainingStartedError(Exception):
    """Nothing was refused."""


@pytest.fixture(autouse=True)
def _no_training(monkeypatch):
    def start(*_, **__):
        raise TrainingStartedError

    monkeypatch.setattr(pretraining, "make_foundation", start)
    monkeypatch.setattr(pretraining.torch, "set_num_threads", lambda _: None)


@pytest.fixture
def asked(monkeypatch, capsys):
    """Run the command without its training; returns exit code, what was asked for (config, family) and the errors."""

    def run(*arguments):
        made = []

        def take(config, out_dir, family="sd21", start=None):
            made.extend([config, family])
            return PretrainResult(out_dir, 0)

        monkeypatch.setattr(pretraining, "pretrain", take)
        monkeypatch.setattr(sys, "argv", ["softalign", "shapes", "pretrain", "--out", "nowhere", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            app.main()
        return stop.value.code or 0, made, capsys.readouterr().err

    return run


def made_weights(folder, family, config=CONFIG):
    folder.mkdir(parents=True)
    (folder / "mine").write_text("x")
    write_recipe(folder, WeightsRecipe(family=family, config=config, samples_seen=1, num_inference_steps=1))
    return folder


@FAMILIES
@pytest.mark.parametrize("recipe", [None, "{", '{"name": "a"}'])
def test_weights_that_no_recipe_accounts_for_are_not_replaced(tmp_path, family, name, recipe):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "mine").write_text("x")
    if recipe is not None:
        (folder / "recipe.json").write_text(recipe)
    with pytest.raises(ConfigError, match=r"would be replaced(.|\n)*to do: ") as refusal:
        pretrain(CONFIG, tmp_path, family)
    assert refusal.value.where == str(folder)


@FAMILIES
def test_weights_of_another_run_are_not_replaced(tmp_path, family, name):
    made_weights(tmp_path / name, family, CONFIG.model_copy(update={"seed": 6}))
    with pytest.raises(ConfigError, match="would be replaced"):
        pretrain(CONFIG, tmp_path, family)


@FAMILIES
def test_weights_of_another_family_are_not_replaced(tmp_path, family, name):
    made_weights(tmp_path / name, "sd3" if family == "sd21" else "sd21")
    with pytest.raises(ConfigError, match="would be replaced"):
        pretrain(CONFIG, tmp_path, family)


@FAMILIES
def test_a_file_in_the_weights_place_is_not_replaced(tmp_path, family, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(ConfigError, match="taken by a file"):
        pretrain(CONFIG, tmp_path, family)


@FAMILIES
def test_weights_of_the_same_run_are_replaced_whatever_their_scores_and_threads(tmp_path, family, name):
    made_weights(tmp_path / name, family)
    again = CONFIG.model_copy(update={"num_threads": 3, "score_images_per_tag": 0, "final_images_per_tag": 1})
    with pytest.raises(TrainingStartedError):
        pretrain(again, tmp_path, family)


@FAMILIES
def test_an_empty_weights_folder_is_used(tmp_path, family, name):
    (tmp_path / name).mkdir()
    with pytest.raises(TrainingStartedError):
        pretrain(CONFIG, tmp_path, family)


@pytest.mark.parametrize("recipe", [None, "{"])
def test_a_start_without_its_recipe_is_refused_before_the_training(tmp_path, recipe):
    file = denoiser_file("sd21", tmp_path / "start")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    if recipe is not None:
        (tmp_path / "start" / "recipe.json").write_text(recipe)
    config = CONFIG.model_copy(update={"start_sha256": sha256_of_file(file)})
    with pytest.raises(ConfigError, match=r"recipe\.json(.|\n)*to do: (.|\n)*--start"):
        pretrain(config, tmp_path / "out", start=tmp_path / "start")


def test_a_start_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(MissingInputError, match=r"to do: .*--start"):
        pretrain(CONFIG, tmp_path / "out", start=tmp_path / "nowhere")


@FAMILIES
@pytest.mark.parametrize("says_it", [False, True])
def test_the_family_is_the_recipes(asked, tmp_path, family, name, says_it):
    recipe = made_weights(tmp_path / name, family) / "recipe.json"
    code, (config, found), _ = asked("--recipe", recipe, "--samples", 7, *(["--family", family] if says_it else []))
    assert (code, found, config.seed) == (0, family, 5)
    assert [config.denoiser.num_samples == 7, config.transformer.num_samples == 7] == [found == "sd21", found == "sd3"]


@FAMILIES
def test_a_family_that_contradicts_the_recipe_is_refused(asked, tmp_path, family, name):
    recipe = made_weights(tmp_path / name, family) / "recipe.json"
    other = "sd3" if family == "sd21" else "sd21"
    code, made, said = asked("--recipe", recipe, "--family", other)
    assert (code, made) == (2, [])
    assert f"found: {other}" in said and f"expected: {family}" in said and "to do: " in said


@pytest.mark.parametrize(("options", "family"), [([], "sd21"), (["--family", "sd3"], "sd3")])
def test_without_a_recipe_the_family_is_the_u_net_unless_said(asked, options, family):
    code, (config, found), _ = asked("--threads", 1, *options)
    assert (code, config, found) == (0, PretrainConfig(), family)


def changed_recipe(path, section, field, value):
    data = json.loads((weights_path() / "recipe.json").read_text())
    place = data["config"][section] if section else data
    place[field] = value
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("section", "field", "value", "said"),
    [
        ("denoiser", "num_sample", 5, "config.denoiser.num_sample: there is no such field"),
        ("denoiser", "num_samples", -5, "config.denoiser.num_samples: it must be above 0 (found -5)"),
        ("denoiser", "learning_rate", float("inf"), "config.denoiser.learning_rate: a finite number is needed"),
        ("denoiser", "focus_range", [0.8, 0.3], "config.denoiser.focus_range: 0 <= low < high <= 1 is needed"),
        ("denoiser", "focus_range", [0, 0.3, 1], "config.denoiser.focus_range: at most 2 entries are allowed"),
        (None, "familly", "sd3", "familly: there is no such field; did you mean family?"),
    ],
)
def test_a_recipe_that_is_none_names_field_value_and_problem(asked, tmp_path, section, field, value, said):
    code, made, found = asked("--recipe", changed_recipe(tmp_path / "recipe.json", section, field, value))
    assert (code, made) == (2, [])
    assert said in found
    assert "validation error" not in found


@pytest.mark.parametrize("text", ['{"family": ', "", "\x00", "[1"])
def test_a_recipe_of_broken_json_says_where_it_breaks(asked, tmp_path, text):
    (tmp_path / "recipe.json").write_text(text)
    code, _, said = asked("--recipe", tmp_path / "recipe.json")
    assert code == 2
    assert "no valid JSON" in said and "line 1 column" in said


def test_a_recipe_that_is_not_there_is_named(asked, tmp_path):
    code, _, said = asked("--recipe", tmp_path / "nothing.json")
    assert code == 2
    assert "No such file" in said and "nothing.json" in said


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (PretrainConfig, {"seed": 2**32}),
        (AutoencoderConfig, {"block_out_channels": ()}),
        (AutoencoderConfig, {"block_out_channels": (8, 0)}),
        (AutoencoderConfig, {"kl_weight": float("inf")}),
        (AutoencoderConfig, {"latent_noise": float("nan")}),
        (DenoiserConfig, {"widths": ()}),
        (DenoiserConfig, {"widths": (32, -32)}),
        (DenoiserConfig, {"focus_range": (0.3,)}),
        (DenoiserConfig, {"focus_range": (-0.1, 0.5)}),
        (DenoiserConfig, {"focus_range": (0.5, 0.5)}),
        (DenoiserConfig, {"focus_range": (0.5, 1.1)}),
        (DenoiserConfig, {"focus_range": (0.5, float("nan"))}),
        (TransformerConfig, {"num_null_tokens": (8, -1)}),
        (TransformerConfig, {"num_null_tokens": ()}),
    ],
)
def test_settings_that_cannot_work_are_refused(section, values):
    with pytest.raises(ValueError, match=next(iter(values))):
        section(**values)


def test_settings_at_their_bounds_are_taken():
    assert PretrainConfig(seed=2**32 - 1).seed == 2**32 - 1
    assert DenoiserConfig(widths=(1,), focus_range=(0, 1)).focus_range == (0.0, 1.0)
    assert TransformerConfig(num_null_tokens=(0,)).num_null_tokens == (0,)


@pytest.mark.parametrize("family", ["sd21", "sd3"])
def test_the_recipes_that_come_with_the_package_are_read(tmp_path, family):
    shutil.copy(weights_path(family) / "recipe.json", tmp_path)
    recipe = read_recipe(tmp_path / "recipe.json")
    assert recipe.family == family
    assert (recipe.start is not None and recipe.start.start is not None) == (family == "sd21")
