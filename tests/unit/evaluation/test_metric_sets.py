"""Metrics of folders: every image once, means over prompts, two folders in pairs."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from softalign.cli.options import app
from softalign.config.metrics import MetricConfig
from softalign.errors import ConfigError, DataError
from softalign.evaluation import metric_sets
from softalign.evaluation.metric_statistics import Resampling, metric_difference, metric_mean
from softalign.geneval.layout import image_filename, write_metadata
from softalign.geneval.prompts import Clause, GenevalPrompt
from tests.tiny_detector import build_clip
from tests.tiny_judge import some_images

TEXTS = ("a red circle", "two squares", "a blue triangle")
PROMPTS = tuple(
    GenevalPrompt(tag=f"own {place}", include=(Clause(class_name="dog", count=1),), prompt=text)
    for place, text in enumerate(TEXTS)
)
HOW = Resampling(num_bootstrap=2000, confidence=0.95, seed=0)
METRIC = MetricConfig(name="pick_score", model="some/model")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    for part in build_clip():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def folders(tmp_path):
    """Two sets of the same prompts, the second with other images and its prompts in another order."""
    images = some_images(6)
    for name, prompts in (("a", PROMPTS), ("b", PROMPTS[::-1])):
        write_metadata(tmp_path / name, prompts)
        for place in range(6):
            pixels = images[place] if name == "a" else 255 - images[place]
            Image.fromarray(pixels).save(tmp_path / name / image_filename(place // 2, place % 2))
    return tmp_path / "a", tmp_path / "b"


def measure(*arguments):
    return CliRunner().invoke(app, ["geneval", "metrics", *map(str, arguments)], catch_exceptions=False)


def lines_of(folder, metric="pick_score"):
    return [json.loads(line) for line in (folder / f"{metric}.jsonl").read_text().splitlines()]


def test_a_folder_has_a_file_of_scores_and_their_mean_over_prompts(folders, clip):
    shown = json.loads(
        measure(folders[0], "--metric", f"pick_score={clip}", "--metric", f"clip_score={clip}", "--json").stdout
    )
    rows = lines_of(folders[0])
    assert [(row["filename"], row["prompt"]) for row in rows] == [
        (image_filename(p, i), TEXTS[p]) for p in range(3) for i in range(2)
    ]
    pick, clip_score = shown["sets"][0]["means"]
    assert pick["mean"] == pytest.approx(np.mean([row["pick_score"] for row in rows]), abs=1e-6)
    assert (pick["num_images"], pick["num_prompts"], pick["model"]) == (6, 3, str(clip))
    assert pick["ci_low"] <= pick["mean"] <= pick["ci_high"]
    assert clip_score["definition"].startswith("2.5 * max(cosine")
    assert shown["differences"] == []


def test_two_folders_are_paired_by_what_a_prompt_asks_for(folders, clip):
    shown = json.loads(measure(*folders, "--metric", f"pick_score={clip}", "--json").stdout)
    scores = [
        {(row["prompt"], row["filename"][-8:]): row["pick_score"] for row in lines_of(folder)} for folder in folders
    ]
    [found] = shown["differences"]
    assert found["difference"] == pytest.approx(
        np.mean([scores[1][key] - scores[0][key] for key in scores[0]]), abs=1e-6
    )
    by_prompt = [
        np.mean([scores[1][text, f"{i:04d}.png"] - scores[0][text, f"{i:04d}.png"] for i in range(2)]) for text in TEXTS
    ]
    assert (found["prompts_better"], found["prompts_worse"]) == (
        sum(np.array(by_prompt) > 0),
        sum(np.array(by_prompt) < 0),
    )
    assert "B - A, pick_score" in measure(*folders, "--metric", f"pick_score={clip}").stdout


def test_images_are_scored_once_by_each_model(folders, clip, monkeypatch):
    calls = []
    load = metric_sets.load_scorer
    monkeypatch.setattr(metric_sets, "load_scorer", lambda *given: calls.append(given) or load(*given))
    for _ in range(2):
        assert measure(*folders, "--metric", f"pick_score={clip}").exit_code == 0
    assert len(calls) == 2  # one for each folder
    Image.new("RGB", (32, 32)).save(folders[1] / image_filename(0, 0))
    measure(*folders, "--metric", f"pick_score={clip}")
    assert len(calls) == 3


def test_nothing_partial_passes_without_a_word(folders, clip):
    (folders[1] / image_filename(2, 1)).unlink()
    with pytest.raises(DataError, match=r"(?s)missing images: 1.*--allow-partial"):
        measure(*folders, "--metric", f"pick_score={clip}")
    shown = json.loads(measure(*folders, "--metric", f"pick_score={clip}", "--allow-partial", "--json").stdout)
    assert shown["num_unpaired"] == 1
    assert [len(one["missing"]) for one in shown["sets"]] == [0, 1]
    shutil.rmtree(folders[1])
    write_metadata(folders[1], PROMPTS[:1])
    with pytest.raises(DataError, match="cannot be compared in pairs"):
        measure(*folders, "--metric", f"pick_score={clip}", "--allow-partial")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "b", "c", "--metric", "clip_score=x"], "One or two folders"),
        (["a", "--metric", "clip_score=x", "--metric", "clip_score=y"], "named twice"),
    ],
)
def test_impossible_requests_are_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        measure(*arguments)


def test_prompts_count_alike_and_are_what_is_resampled():
    rng = np.random.default_rng(0)
    values = {image_filename(p, i): rng.normal(p % 2, 0.1) for p in range(200) for i in range(4)}
    found = metric_mean(METRIC, values, HOW)
    half = 1.96 * 0.5 / np.sqrt(200)  # half of the prompts have 0, half 1; a prompt's images add next to nothing
    assert (found.ci_low, found.ci_high) == pytest.approx((found.mean - half, found.mean + half), abs=0.01)
    del values[image_filename(1, 1)], values[image_filename(1, 2)], values[image_filename(1, 3)]
    assert metric_mean(METRIC, values, HOW).mean == pytest.approx(found.mean, abs=0.002)
    with pytest.raises(DataError, match="no images to score"):
        metric_mean(METRIC, {}, HOW)


def test_a_difference_is_as_sure_as_its_prompts():
    rng = np.random.default_rng(0)
    reference = {image_filename(p, 0): rng.normal(20, 1) for p in range(50)}
    better = {name: value + 0.1 + rng.normal(0, 0.01) for name, value in reference.items()}
    found = metric_difference("pick_score", better, reference, HOW)
    assert (found.prompts_better, found.prompts_worse) == (50, 0)
    assert 0 < found.ci_low < found.difference < found.ci_high < 0.12
    assert found.p_value < 0.001
    same = metric_difference("pick_score", reference, reference, HOW)
    assert (same.difference, same.ci_low, same.ci_high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
