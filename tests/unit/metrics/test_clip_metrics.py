"""CLIPScore and PickScore are what their papers say, restated with the libraries' own processing."""

import shutil

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel
from typer.testing import CliRunner

from softalign.cli.options import app
from softalign.config.metrics import MetricConfig
from softalign.errors import CompatibilityError, ConfigError, MissingInputError
from softalign.metrics.scorer import load_scorer, metric_fingerprint
from tests.tiny_detector import CLIP_SIDE_PX, build_clip
from tests.tiny_judge import save_tiny_judge, some_images

CPU = torch.device("cpu")
PROMPTS = ["a photo of a red circle", "two squares", "a photo of a red circle and a blue square " * 20]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    for part in build_clip():
        part.save_pretrained(folder)
    return folder


def scorer(name, model, **named):
    return load_scorer(MetricConfig(name=name, model=str(model), **named), CPU)


def logits(clip, image, prompt):
    """Return CLIP's logit of an image and a text, by its own processing and forward."""
    model, (_, tokenizer) = CLIPModel.from_pretrained(clip).eval(), build_clip()
    side = {"shortest_edge": CLIP_SIDE_PX}, {"height": CLIP_SIDE_PX, "width": CLIP_SIDE_PX}
    pixels = CLIPImageProcessorPil(size=side[0], crop_size=side[1])(Image.fromarray(image), return_tensors="pt")
    with torch.inference_mode():
        output = model(**pixels, **tokenizer(prompt, truncation=True, return_tensors="pt"))
    return float(output.logits_per_image), float(model.logit_scale.detach().exp())


def test_the_scores_are_the_papers(clip):
    clip_score, pick_score = scorer("clip_score", clip), scorer("pick_score", clip)
    seen = []
    for image in some_images(4):
        for prompt in PROMPTS:
            logit, scale = logits(clip, image, prompt)
            assert pick_score(image, prompt) == pytest.approx(logit, abs=2e-3)
            assert clip_score(image, prompt) == pytest.approx(2.5 * max(logit / scale, 0.0), abs=4e-4)
            seen.append(logit)
    assert min(seen) < 0 < max(seen)  # both sides of CLIPScore's max


def test_a_score_does_not_depend_on_what_was_scored_before(clip):
    images = some_images(3)
    used = scorer("pick_score", clip)
    scores = [used(image, prompt) for image in images for prompt in PROMPTS]
    assert scores == [scorer("pick_score", clip)(image, prompt) for image in images for prompt in PROMPTS]


def test_a_model_without_a_tokenizer_names_another(clip, tmp_path):
    alone, words = tmp_path / "alone", tmp_path / "words"
    alone.mkdir()
    words.mkdir()
    for path in clip.iterdir():
        shutil.copy(path, alone if path.name in {"config.json", "model.safetensors"} else words)
    with pytest.raises(CompatibilityError, match="pick_score=MODEL,TOKENIZER"):
        scorer("pick_score", alone)
    image = some_images(1)[0]
    assert scorer("pick_score", alone, tokenizer=str(words))(image, "a") == scorer("pick_score", clip)(image, "a")
    named = [MetricConfig(name="pick_score", model=str(alone), tokenizer=one) for one in (None, str(words), str(clip))]
    assert len({metric_fingerprint(one) for one in named}) == 3


def test_what_is_no_clip_is_refused(clip, tmp_path):
    with pytest.raises(MissingInputError, match="no such model of the metric clip_score"):
        scorer("clip_score", tmp_path / "nowhere")
    pickled = tmp_path / "pickled"
    shutil.copytree(clip, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(CompatibilityError, match="safetensors"):
        scorer("clip_score", pickled)


@pytest.mark.parametrize("metric", ["hps_v2=x", "clip_score", "clip_score=", "=x"])
def test_what_is_no_metric_is_refused_before_anything_is_loaded(tmp_path, metric):
    with pytest.raises(ConfigError, match=r"(?s)no metric.*clip_score, pick_score"):
        CliRunner().invoke(app, ["geneval", "metrics", str(tmp_path), "--metric", metric], catch_exceptions=False)


def test_a_model_of_another_architecture_is_refused(tmp_path):
    with pytest.raises(CompatibilityError, match=r"(?s)CLIPModel.*attention heads"):
        scorer("clip_score", save_tiny_judge(tmp_path))
