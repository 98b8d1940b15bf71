"""Pretraining continues exactly where it was killed, and exports what the pipeline loads."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from softalign.errors import ConfigError, MissingInputError, TrainingError
from softalign.geneval.prompts import TAGS
from softalign.shapes import weights_path
from softalign.shapes.pretraining.data import layouts_of, tokenize
from softalign.shapes.pretraining.export import read_recipe
from softalign.shapes.pretraining.models import EMBEDDED_MODELS, denoiser_file
from softalign.shapes.pretraining.pretrain import AUTOENCODER_STATE, SCORES_LOG, TEXT_ENCODER_STATE, export, pretrain
from softalign.shapes.pretraining.recipe import (
    AutoencoderConfig,
    DenoiserConfig,
    PoolConfig,
    PretrainConfig,
    TextEncoderConfig,
    TransformerConfig,
)
from softalign.shapes.pretraining.train_denoiser import focused
from softalign.shapes.pretraining.train_text_encoder import layout_loss
from softalign.shapes.pretraining.train_transformer import text_states
from softalign.shapes.pretraining.training_state import LoopSettings, ResumableTraining
from softalign.shapes.scenes import COLORS, SHAPES, Scene, SceneObject
from softalign.store.files import sha256_of_file

MICRO = PretrainConfig(
    seed=5,
    autoencoder=AutoencoderConfig(block_out_channels=(8, 8, 8, 8), num_scenes=64, num_samples=32, batch_size=8),
    pool=PoolConfig(num_scenes=64),
    text_encoder=TextEncoderConfig(width=32, num_layers=1, num_samples=48, batch_size=8),
    denoiser=DenoiserConfig(
        widths=(32, 32),
        num_samples=96,
        batch_size=8,
        num_warmup_samples=16,
    ),
    transformer=TransformerConfig(
        num_layers=2, num_heads=1, num_null_tokens=(2, 3), num_samples=96, batch_size=8, num_warmup_samples=16
    ),
    checkpoint_every_samples=16,
    score_every_samples=64,
    score_images_per_tag=2,
    final_images_per_tag=1,
)
UNSCORED = MICRO.model_copy(update={"score_images_per_tag": 0, "final_images_per_tag": 0})
"""The same weights, without images."""

CHILD = """
import sys
from pathlib import Path
from softalign.shapes.pretraining.pretrain import pretrain
from softalign.shapes.pretraining.recipe import PretrainConfig
pretrain(PretrainConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
"""


def load(folder):
    from diffusers import DiffusionPipeline

    absent = {"text_encoder_3": None, "tokenizer_3": None} if (folder / "transformer").is_dir() else {}
    return DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **absent)


FAMILIES = pytest.mark.parametrize("family", ["sd21", "sd3"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Both models in one folder: autoencoder and text encoder are trained once."""
    out = tmp_path_factory.mktemp("undisturbed")
    pretrain(MICRO, out)
    foundation = [(out / name).stat().st_mtime_ns for name in (AUTOENCODER_STATE, TEXT_ENCODER_STATE)]
    pretrain(MICRO, out, "sd3")
    assert foundation == [(out / name).stat().st_mtime_ns for name in (AUTOENCODER_STATE, TEXT_ENCODER_STATE)]
    return out


def state_bytes(out, family):
    names = (AUTOENCODER_STATE, TEXT_ENCODER_STATE, EMBEDDED_MODELS[family].state_name)
    return [(out / name).read_bytes() for name in names]


@FAMILIES
def test_resume_after_an_interruption_is_exact(undisturbed, tmp_path, family):
    pretrain(UNSCORED, tmp_path, family, max_steps=5)  # the last checkpoint is of step 4: one update is done again
    pretrain(UNSCORED, tmp_path, family)
    assert state_bytes(tmp_path, family) == state_bytes(undisturbed, family)


@FAMILIES
def test_resume_after_sigkill_is_exact(undisturbed, tmp_path, family):
    command = [sys.executable, "-c", CHILD, UNSCORED.model_dump_json(), str(tmp_path), family]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while (
        not (tmp_path / EMBEDDED_MODELS[family].state_name).exists()
        and child.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    pretrain(UNSCORED, tmp_path, family)
    assert state_bytes(tmp_path, family) == state_bytes(undisturbed, family)


def test_finished_run_is_left_alone(undisturbed):
    state_path = undisturbed / EMBEDDED_MODELS["sd21"].state_name
    before = state_path.stat().st_mtime_ns
    assert pretrain(MICRO, undisturbed).samples_seen == 96
    assert state_path.stat().st_mtime_ns == before
    assert (undisturbed / SCORES_LOG.format(family="sd21")).read_text().count("single_object") == 1


def test_another_recipe_is_refused(undisturbed, tmp_path):
    shutil.copy(undisturbed / AUTOENCODER_STATE, tmp_path)
    with pytest.raises(ConfigError, match="another configuration"):
        pretrain(MICRO.model_copy(update={"seed": 6}), tmp_path)


@FAMILIES
def test_export_loads_in_the_pipeline(undisturbed, tmp_path, family):
    result = export(MICRO, undisturbed, tmp_path / "weights", family)
    pipeline = load(result.weights_path)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a photo of a red circle", height=32, width=32, num_inference_steps=2).images[0]
    assert image.size == (32, 32)
    recipe = json.loads((result.weights_path / "recipe.json").read_text())
    assert PretrainConfig.model_validate(recipe["config"]) == MICRO
    assert set(recipe["scores_by_guidance_scale"]["2.0"]) == set(TAGS)


@FAMILIES
def test_what_stands_on_the_shipped_foundation_does_not_say_where_that_lies(tmp_path, family):
    config = MICRO.model_copy(
        update={"foundation": "shipped", "text_encoder": TextEncoderConfig(), "final_images_per_tag": 0}
    )
    folder = pretrain(config, tmp_path / "out", family, max_steps=0).weights_path
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*.json")]
    assert len(texts) > 5 and not any(str(weights_path()) in text for text in texts)


@FAMILIES
def test_training_goes_on_from_the_weights_that_the_recipe_names(undisturbed, tmp_path, family):
    folder = export(UNSCORED, undisturbed, tmp_path / "weights", family).weights_path
    start = denoiser_file(family, folder)
    still = {
        section: getattr(MICRO, section).model_copy(update={"num_samples": 16, "learning_rate": 1e-12})
        for section in ("denoiser", "transformer")
    }
    config = UNSCORED.model_copy(update={"start_sha256": sha256_of_file(start), **still})
    again = pretrain(config, tmp_path / "out", family, start=folder).weights_path
    assert_close(load_file(denoiser_file(family, again)), load_file(start), rtol=0, atol=1e-6)
    recipe = read_recipe(again / "recipe.json")
    assert recipe.config.start_sha256 == sha256_of_file(start)
    assert recipe.start is not None
    assert recipe.start.config == UNSCORED


@pytest.mark.parametrize(("digest", "has_start"), [(None, True), ("0" * 64, True), ("0" * 64, False)])
def test_another_start_than_the_recipes_is_refused(undisturbed, tmp_path, digest, has_start):
    start = export(UNSCORED, undisturbed, tmp_path / "weights").weights_path if has_start else None
    config = MICRO.model_copy(update={"start_sha256": digest})
    with pytest.raises(ConfigError, match="not the weights that the recipe starts from"):
        pretrain(config, tmp_path / "out", start=start)


def test_a_start_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingInputError, match="no weights to start from"):
        pretrain(MICRO, tmp_path / "out", start=tmp_path / "nowhere")


def test_layout_loss_is_the_cross_entropy_of_shape_and_colour():
    layouts = torch.tensor([[[1, 3], [0, 0]]])
    logits = torch.zeros(1, 2, 12)
    assert layout_loss(logits, layouts)[0].tolist() == pytest.approx([math.log(5) + math.log(7)] * 2)
    logits[0, 0, 1], logits[0, 0, 5 + 3] = 50.0, 50.0
    logits[0, 1, 0], logits[0, 1, 5] = 50.0, 50.0
    assert layout_loss(logits, layouts).max() < 1e-6


def test_layouts_say_what_lies_in_each_cell():
    scene = Scene((SceneObject("square", "blue", 1, 2, 0.0, 0.0, 3.0),), 130)
    (layout,) = layouts_of([scene])
    assert layout[6].tolist() == [1 + SHAPES.index("square"), 1 + COLORS.index("blue")]
    assert layout.sum() == layout[6].sum()


def test_flow_text_states_are_the_pipelines(undisturbed):
    pipeline = load(undisturbed / "weights_sd3")
    prompts = ["a photo of a red circle", ""]
    theirs = pipeline.encode_prompt(prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=3)
    ours = text_states(pipeline.text_encoder, tokenize(pipeline.tokenizer, prompts), 3)
    assert torch.equal(ours.prompt_embeds_NLD, theirs[0])
    assert torch.equal(ours.pooled_NP, theirs[2])
    assert theirs[2].abs().max() > 0.1


def test_the_layer_added_for_the_projection_changes_nothing(undisturbed):
    plain, twin = load(undisturbed / "weights"), load(undisturbed / "weights_sd3")
    ids = tokenize(plain.tokenizer, ["a photo of two crosses"])
    first_end = int((ids[0] == plain.tokenizer.eos_token_id).nonzero()[0])
    assert torch.allclose(plain.text_encoder(ids)[0][0, first_end], twin.text_encoder(ids)[0][0], atol=1e-5)


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = torch.nn.Linear(1, 1)
    settings = LoopSettings(8, 1, 1e-3, 0, 0.4, 0.9, 8, "x")
    training = ResumableTraining(model, settings, tmp_path / "state.safetensors")
    with pytest.raises(TrainingError, match="not finite"):
        training.run(lambda step: model(torch.ones(1)).sum() * float("nan"))


def test_learning_rate_schedule():
    settings = LoopSettings(1000, 10, 1.0, 100, 0.4, 0.9, 100, "x")
    rates = [settings.learning_rate_at(step) for step in range(settings.num_steps)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:60] == pytest.approx([1.0] * 50)
    assert rates[80] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.025)


def test_timesteps_favour_the_band():
    config = DenoiserConfig(focus_share=0.6, focus_range=(0.3, 0.8))
    times = focused(torch.linspace(0, 0.9999, 10_000), config)
    assert times.min() >= 0
    assert times.max() < 1
    in_band = float(((times >= 0.3) & (times < 0.8)).float().mean())
    assert in_band == pytest.approx(0.6 + 0.4 * 0.5, abs=0.01)
