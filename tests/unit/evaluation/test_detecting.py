"""``--detections auto``: every image once, whatever comes between, and whose scores they are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from softalign.artifacts import EvalReport
from softalign.cli.options import app
from softalign.config import BackboneConfig, DetectorConfig, EvalConfig, Runtime, load_recipe
from softalign.errors import ConfigError, IntegrityError, MissingInputError
from softalign.evaluation import arms, detecting
from softalign.evaluation.detecting import detect_folder
from softalign.evaluation.suites import detector_for, label_of
from softalign.geneval.detections import read_detections
from softalign.geneval.layout import image_filename, write_metadata
from softalign.geneval.prompts import CLASSES, Clause, GenevalPrompt
from softalign.shapes.self_test import golden_images, require_sound
from softalign.stages.requests import StageInputs, compare_request, evaluate_request
from softalign.store.store import Store
from tests.tiny_detector import build_segmenter, detect_in_small, save_tiny_detector
from tests.tiny_pipeline import save_tiny_pipeline

PROMPTS = tuple(
    GenevalPrompt(tag="colors", include=(Clause(class_name=name, count=1, color="red"),), prompt=f"a red {name}")
    for name in ("bench", "car", "dog")
)
CPU = Runtime(device="cpu")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return save_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(autouse=True)
def _small_inputs(monkeypatch):
    detect_in_small(monkeypatch, 96, 160)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    write_metadata(root, PROMPTS)
    rng = np.random.default_rng(0)
    for prompt in range(len(PROMPTS)):
        for image in range(2):
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((64, 48)).save(root / image_filename(prompt, image))
    return root


class Detecting:
    """Counts the images that are detected, and dies after some."""

    def __init__(self, monkeypatch):
        self.num_images, self.dies_after = 0, 10**9
        load = detecting.detector_for

        def counted(config, runtime):
            detector = load(config, runtime)

            def call(images):
                if self.num_images >= self.dies_after:
                    raise KeyboardInterrupt
                self.num_images += len(images)
                return detector(images)

            return call

        monkeypatch.setattr(detecting, "detector_for", counted)


@pytest.fixture
def calls(monkeypatch):
    return Detecting(monkeypatch)


def test_who_was_stopped_goes_on_and_ends_with_the_same_bytes(folder, models, calls):
    undisturbed = folder.parent / "undisturbed"
    shutil.copytree(folder, undisturbed)
    expected = detect_folder(undisturbed, models, CPU)
    assert (expected.num_detected, expected.label, calls.num_images) == (6, "geneval-hf", 6)
    calls.num_images, calls.dies_after = 0, 4
    with pytest.raises(KeyboardInterrupt):
        detect_folder(folder, models, CPU)
    path = folder / "detections.jsonl"
    assert len(path.read_text().splitlines()) == 4
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])  # killed while it wrote
    calls.num_images, calls.dies_after = 0, 10**9
    assert detect_folder(folder, models, CPU).num_detected == calls.num_images == 2
    assert path.read_bytes() == expected.path.read_bytes()
    assert len(read_detections(path, CLASSES)) == 6
    assert not (folder / ".lock").exists()


def test_only_images_that_changed_are_detected_again(folder, models, calls):
    detect_folder(folder, models, CPU)
    lines = (folder / "detections.jsonl").read_text().splitlines()
    calls.num_images = 0
    assert detect_folder(folder, models, CPU).num_detected == calls.num_images == 0
    Image.new("RGB", (64, 48), "blue").save(folder / image_filename(1, 0))
    assert detect_folder(folder, models, CPU).num_detected == calls.num_images == 2  # the prompt's, together
    again = (folder / "detections.jsonl").read_text().splitlines()
    assert [one == other for one, other in zip(lines, again, strict=True)] == [True, True, False, True, True, True]


def test_another_detector_detects_everything_again(folder, models, calls, tmp_path):
    detect_folder(folder, models, CPU)
    build_segmenter(seed=3).save_pretrained(tmp_path / "other")
    other = models.model_copy(update={"segmenter": str(tmp_path / "other")})
    assert detect_folder(folder, other, CPU).num_detected == 6


def test_detections_from_elsewhere_are_not_written_over(folder, models):
    path = folder / "detections.jsonl"
    path.write_text('{"filename": "00000/samples/0000.png", "detections": []}\n')
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="came from elsewhere"):
        detect_folder(folder, models, CPU)
    assert path.read_bytes() == before


def test_a_folder_is_scored_with_a_detector_from_the_command_line(folder, models):
    options = ["--segmenter", models.segmenter, "--color-classifier", models.color_classifier, "--device", "cpu"]
    asked = ["geneval", "score", str(folder), "--detections", "auto", *options]
    partly = CliRunner().invoke(app, [*asked, "--allow-partial", "--json"])
    assert partly.exit_code == 0, partly.output
    found = json.loads(partly.stdout)
    assert found["detector"] == "geneval-hf" and found["num_images"] == 6
    assert "(geneval-hf)" in CliRunner().invoke(app, [*asked, "--allow-partial"]).stdout
    recorded = ["geneval", "score", str(folder), "--detections", str(folder / "detections.jsonl"), "--allow-partial"]
    again = json.loads(CliRunner().invoke(app, [*recorded, "--json"]).stdout)
    assert again == {**found, "detector": ""}
    with pytest.raises(ConfigError, match="no effect"):
        CliRunner().invoke(app, [*recorded, *options], catch_exceptions=False)


def test_a_detector_that_is_not_there_is_said_before_anything_is_detected(folder):
    with pytest.raises(MissingInputError, match="nowhere"):
        detect_folder(folder, DetectorConfig(segmenter="./nowhere"), CPU)
    assert not Path(folder / "detections.jsonl").exists()


def test_the_official_checkpoint_is_converted_from_the_command_line(tmp_path):
    import torch

    from tests.mmdet_network import TINY, random_state

    torch.save({"state_dict": random_state(**TINY)}, tmp_path / "m.pth")
    asked = ["geneval", "convert-detector", str(tmp_path / "m.pth"), "--to", str(tmp_path / "m2f"), "--json"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0 and json.loads(result.stdout)["is_official"] is False
    assert {path.name for path in (tmp_path / "m2f").iterdir()} == {
        "config.json",
        "model.safetensors",
        "conversion.json",
    }


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    model = save_tiny_pipeline(tmp_path_factory.mktemp("sd15") / "model")
    return BackboneConfig(family="sd15", model=model, resolution_px=32)


def test_a_stable_diffusion_model_is_evaluated_with_a_detector_of_photographs(
    stable_diffusion, models, tmp_path, monkeypatch
):
    monkeypatch.setattr(arms, "suite_prompts", lambda _config: PROMPTS)
    config = EvalConfig(
        suite="geneval",
        detector=models,
        images_per_prompt=2,
        num_inference_steps=1,
        resolution_px=32,
        num_bootstrap=100,
    )
    runtime = Runtime(device="cpu", generation_batch_size=6)
    report = arms.evaluate("base", None, stable_diffusion, config, runtime, Store(str(tmp_path)), "key")
    assert (report.detector, report.num_images, report.suite) == ("geneval-hf", 6, "geneval")
    found = read_detections(Path(report.uri) / "detections.jsonl", CLASSES)
    assert len(found) == 6 and all(one.color for detections in found.values() for one in detections)
    assert EvalReport.from_json((Path(report.uri) / "report.json").read_bytes(), report.uri) == report


def test_the_detector_is_part_of_what_the_official_suite_is_asked_for_alone(models, tmp_path):
    def request(*overrides):
        recipe = load_recipe("shapes-unet", list(overrides))
        given = StageInputs(recipe, Store(str(tmp_path)), arm="base")
        return evaluate_request(given), compare_request(given)

    for asked in request():
        assert "detector" not in asked.config["evaluate"] and "evaluate.detector" not in asked.content
    photographs = ("evaluate.suite=geneval", f"evaluate.detector={{segmenter: {models.segmenter}}}")
    before, _ = request(*photographs)
    assert before.config["evaluate"]["detector"]["segmenter"] == models.segmenter
    weights = Path(models.segmenter) / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        assert request(*photographs)[0].key != before.key
    finally:
        weights.write_bytes(kept)
    assert request(*photographs)[0].key == before.key


def test_the_embedded_worlds_suite_refuses_a_detector(models):
    with pytest.raises(ValidationError, match="has no effect"):
        EvalConfig(suite="shapes", detector=models)


def test_the_embedded_worlds_detector_is_tested_on_stored_images():
    assert label_of(EvalConfig(suite="shapes")) == ""
    detector = detector_for(EvalConfig(suite="shapes"), CPU)
    [first, *_] = golden_images()
    assert detector([first])[0]

    def blind(images):
        return [found[:-1] for found in detector(images)]

    with pytest.raises(IntegrityError, match=r"stored image 0"):
        require_sound(blind)
