"""One arm for real on a tiny random model."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from softalign.config import DetectorConfig, EvalConfig, Runtime
from softalign.config.metrics import DistanceConfig, MetricConfig
from softalign.errors import CompatibilityError, ConfigError, UndetectedError
from softalign.evaluation import arm_metrics, arms, undetected
from softalign.evaluation.evaluated_tokens import tokens_digest
from softalign.evaluation.image_files import load_image
from softalign.evaluation.packs import ArmImages
from softalign.evaluation.set_distances import distances_of, write_statistics
from softalign.evaluation.suites import score_directory
from softalign.geneval.layout import read_folders
from softalign.geneval.scoring import read_results
from softalign.metrics.scorer import load_scorer
from softalign.store.store import Store
from tests.tiny_detector import CLIP_SIDE_PX, build_clip
from tests.tiny_judge import some_images

CONFIG = EvalConfig(
    suite="shapes",
    images_per_prompt=1,
    num_inference_steps=1,
    guidance_scale=2.0,
    num_bootstrap=100,
)
RUNTIME = Runtime(device="cpu", generation_batch_size=5)


@pytest.fixture
def small(monkeypatch, prompts):
    """The suite cut down to two prompts a tag."""
    monkeypatch.setattr(arms, "suite_prompts", lambda _config: prompts)


def evaluate(arm, adapter, backbone, store, config=CONFIG, runtime=RUNTIME, key=None):
    return arms.evaluate(arm, adapter, backbone, config, runtime, store, key or f"{arm}-key")


def published(record):
    return {
        path.relative_to(record.uri).as_posix(): path.read_bytes()
        for path in sorted(Path(record.uri).rglob("*"))
        if path.is_file()
    }


def image(record):
    return arms_images(record).read("00003/samples/0000.png")


def arms_images(record):
    return ArmImages(Path(record.uri))


def test_an_arm_is_published_in_packs_and_scores_again_the_same(small, backbone, tmp_path):
    store = Store(str(tmp_path))
    report = evaluate("base", None, backbone, store)
    files = published(report)
    assert sorted(files) == [
        "detections.jsonl",
        "files.json",
        "images-00000.tar",
        "images.json",
        "report.json",
        "results.jsonl",
    ]
    assert report.num_images == report.num_prompts == 12
    assert report.tags[0].tag == "single_object"
    assert (report.sampler, report.num_inference_steps) == ("DDIMScheduler", 1)
    assert len(report.to_json()) < 4096
    assert str(tmp_path).encode() not in b"".join(files.values())
    assert arms_images(report).unpack(tmp_path / "images") == 12
    again = score_directory(tmp_path / "images", tmp_path / "evaluate/base-key/detections.jsonl", tmp_path / "again")
    assert again.overall_score == pytest.approx(report.overall_score, abs=1e-6)
    assert (tmp_path / "again/results.jsonl").read_bytes() == files["results.jsonl"]
    assert not (tmp_path / ".work/evaluate/base-key").exists()


def test_the_arms_differ_and_are_drawn_from_the_same_noise(small, backbone, publish_tokens, tmp_path):
    store = Store(str(tmp_path))
    adapter = publish_tokens(store)
    images = {}
    for arm in ("base", "untrained", "adapter"):
        report = evaluate(arm, None if arm == "base" else adapter, backbone, store)
        assert report.adapter_digest == tokens_digest(arm, adapter, store)
        assert report.parents == (() if arm == "base" else (report.adapter_digest,))
        images[arm] = image(report)
    assert len(set(images.values())) == 3
    off = CONFIG.model_copy(update={"scale": 0.0})
    report = evaluate("adapter", adapter, backbone, store, config=off, key="off")
    assert image(report) == images["base"]
    as_code = CONFIG.model_copy(update={"unconditional_bank": "negative"})
    report = evaluate("adapter", adapter, backbone, store, config=as_code, key="code")
    assert image(report) not in images.values()
    divided = CONFIG.model_copy(update={"divide_by_guidance": True})
    report = evaluate("adapter", adapter, backbone, store, config=divided, key="divided")
    assert image(report) not in images.values()
    assert report.divide_by_guidance
    assert "divide_by_guidance=True" in report.sampling_text()


def test_an_arm_is_scored_by_other_metrics_too(small, backbone, prompts, tmp_path):
    folder = tmp_path / "clip"
    for part in build_clip():
        part.save_pretrained(folder)
    metrics = [MetricConfig(name=name, model=str(folder)) for name in ("clip_score", "pick_score")]
    config = CONFIG.model_copy(update={"metrics": tuple(metrics)})
    report = evaluate("base", None, backbone, Store(str(tmp_path)), config=config)
    plain = evaluate("base", None, backbone, Store(str(tmp_path / "plain")))
    files = published(report)
    rows = [json.loads(line) for line in files.pop("metric_values.jsonl").splitlines()]
    assert {name: files[name] for name in ("results.jsonl", "images-00000.tar")}.items() <= published(plain).items()
    assert [row["filename"] for row in rows] == [
        result.filename for result in read_results(Path(report.uri) / "results.jsonl")
    ]
    for place in (0, 7):
        pixels = load_image(io.BytesIO(arms_images(report).read(rows[place]["filename"])))
        for metric in metrics:
            scorer = load_scorer(metric, torch.device("cpu"))
            assert rows[place][metric.name] == scorer(pixels, prompts[place].prompt)


def test_an_image_is_scored_once_by_other_metrics_however_many_rounds_follow(
    small, backbone, prompts, tmp_path, monkeypatch
):
    folder = tmp_path / "clip"
    for part in build_clip():
        part.save_pretrained(folder)
    metrics = {"metrics": (MetricConfig(name="clip_score", model=str(folder)),)}
    scored, load = [], arm_metrics.file_scorer

    def counting(*arguments):
        score = load(*arguments)
        return lambda image: scored.append(image[1]) or score(image)

    monkeypatch.setattr(arm_metrics, "file_scorer", counting)
    store = Store(str(tmp_path / "rounds"))
    rounds = CONFIG.model_copy(update={**metrics, "images_per_prompt": 2, "stop": "after 1"})
    first = arms.evaluate("base", None, backbone, rounds, RUNTIME, store, "first")
    assert len(scored) == len(prompts)
    both = rounds.model_copy(update={"stop": "after 2"})
    second = arms.evaluate("base", None, backbone, both, RUNTIME, store, "second", lent=first)
    assert len(scored) == 2 * len(prompts)
    whole = CONFIG.model_copy(update={**metrics, "images_per_prompt": 2})
    expected = arms.evaluate("base", None, backbone, whole, RUNTIME, Store(str(tmp_path / "whole")), "whole")
    assert published(second)["metric_values.jsonl"] == published(expected)["metric_values.jsonl"]


def test_a_metric_without_its_model_is_said_once_the_images_are_drawn(small, prompts, backbone, tmp_path):
    config = CONFIG.model_copy(update={"metrics": (MetricConfig(name="pick_score", model=str(tmp_path / "none")),)})
    with pytest.raises(UndetectedError, match="no such model of the metric pick_score") as caught:
        evaluate("base", None, backbone, Store(str(tmp_path)), config=config)
    assert len(list(Path(caught.value.where).rglob("*.png"))) == len(prompts)


def test_an_arm_says_how_far_its_images_are_from_a_reference_as_the_command_does(small, backbone, tmp_path):
    clip, reference = tmp_path / "clip", tmp_path / "reference.npz"
    for part in build_clip():
        part.save_pretrained(clip)
    side = dict(height=CLIP_SIDE_PX, width=CLIP_SIDE_PX)
    CLIPImageProcessorPil(size=dict(shortest_edge=CLIP_SIDE_PX), crop_size=side).save_pretrained(clip)
    (tmp_path / "photographs").mkdir()
    for place, pixels in enumerate(some_images(4)):
        Image.fromarray(pixels).save(tmp_path / f"photographs/{place}.png")
    runtime = Runtime(device="cpu")
    assert write_statistics(tmp_path / "photographs", str(clip), runtime, reference) == 4
    config = CONFIG.model_copy(update={"distance": DistanceConfig(reference=str(reference), features=str(clip))})
    report = evaluate("base", None, backbone, Store(str(tmp_path / "store")), config=config)
    found = json.loads(published(report)["distances.json"])
    names = [result.filename for result in read_results(Path(report.uri) / "results.jsonl")]
    for name in names:
        (tmp_path / "drawn" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "drawn" / name).write_bytes(arms_images(report).read(name))
    measured = distances_of(tmp_path / "drawn", reference, str(clip), runtime)
    assert found["distances"] == pytest.approx(measured.distances) and len(found["distances"]) == 2
    assert (found["num_images"], found["num_reference_images"]) == (measured.num_images, 4)
    with np.load(reference) as stored:
        np.savez(reference, **(dict(stored) | {"features_of": "another"}))
    with pytest.raises(CompatibilityError, match="of other features"):  # before anything is detected
        evaluate("base", None, backbone, Store(str(tmp_path / "other")), config=config)
    reference.unlink()
    with pytest.raises(UndetectedError, match="no such file of a reference's statistics"):
        evaluate("base", None, backbone, Store(str(tmp_path / "without")), config=config)


def test_an_interrupted_arm_goes_on_to_the_same_bytes(small, backbone, tmp_path, monkeypatch):
    whole = evaluate("base", None, backbone, Store(str(tmp_path / "whole")))
    store = Store(str(tmp_path / "killed"))
    work = store.work_path("evaluate", "base-key") / "arm" / "images" / "00000" / "samples"

    def die(*_args):
        (work / ".0000.png.4711").write_bytes(b"half")  # what a killed writer leaves
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(arms, "detect_and_score", die)
        with pytest.raises(KeyboardInterrupt):
            evaluate("base", None, backbone, store)
    (work / "0000.png").write_bytes(b"torn")
    resumed = evaluate("base", None, backbone, store)
    assert resumed.digest == whole.digest
    assert published(resumed) == published(whole)


SCRIPT = """
import json, logging, sys
from softalign.config import BackboneConfig, EvalConfig, Runtime
from softalign.evaluation import arms
from softalign.geneval.layout import read_folders
from softalign.store.store import Store
logging.basicConfig(level=logging.INFO)
request = json.loads(sys.argv[1])
arms.evaluate("base", None, BackboneConfig(**request["backbone"]), EvalConfig(**request["config"]),
              Runtime(device="cpu", generation_batch_size=5), Store(request["store"]), "base-key")
"""


@pytest.mark.slow
def test_sigkill_at_random_moments_then_rerun_gives_identical_artefacts(backbone, tmp_path):
    whole = evaluate("base", None, backbone, Store(str(tmp_path / "whole")))
    store = Store(str(tmp_path / "killed"))
    request = {
        "backbone": backbone.model_dump(mode="json"),
        "config": CONFIG.model_dump(mode="json"),
        "store": store.uri,
    }
    rng = random.Random(0)
    images = tmp_path / "killed/.work/evaluate/base-key/arm/images"
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(request)], stderr=subprocess.DEVNULL)
        goal = len(list(images.glob("*/samples/*.png"))) + rng.randrange(1, 40)
        deadline = time.monotonic() + 240
        while child.poll() is None and len(list(images.glob("*/samples/*.png"))) < goal:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "killed/evaluate/base-key/report.json").exists()
    resumed = evaluate("base", None, backbone, store)
    assert resumed.digest == whole.digest
    assert published(resumed) == published(whole)


def test_a_second_call_returns_what_is_published(small, backbone, tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    first = evaluate("base", None, backbone, store)
    monkeypatch.setattr(arms, "generate_missing", lambda *_: pytest.fail("generated again"))
    assert evaluate("base", None, backbone, store).digest == first.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"images_per_prompt": 2},
        {"num_inference_steps": 2},
        {"guidance_scale": 1.0},
        {"resolution_px": 40},
        {"seed": 1},
    ],
)
def test_every_field_of_generation_changes_the_files(small, backbone, tmp_path, changes):
    store = Store(str(tmp_path))
    reference = evaluate("base", None, backbone, store)
    changed = evaluate("base", None, backbone, store, config=CONFIG.model_copy(update=changes), key="changed")
    assert changed.files_digest != reference.files_digest


def test_the_guided_base_is_the_base_at_the_reference_guidance(small, backbone, tmp_path):
    store = Store(str(tmp_path))
    first = arms_images(evaluate("base", None, backbone, store))
    names = [name for folder in first.folders() for name in folder.filenames]
    unguided = CONFIG.model_copy(update={"guidance_scale": 1.0, "reference_guidance_scale": CONFIG.guidance_scale})
    report = evaluate("guided_base", None, backbone, store, config=unguided)
    assert report.guidance_scale == CONFIG.guidance_scale
    guided = arms_images(report)
    assert [guided.read(name) for name in names] == [first.read(name) for name in names]
    plain = arms_images(evaluate("base", None, backbone, store, config=unguided, key="plain"))
    assert [plain.read(name) for name in names] != [first.read(name) for name in names]


def test_without_a_detector_the_images_are_drawn_and_another_one_goes_on_from_them(backbone, tmp_path, monkeypatch):
    config = EvalConfig(
        suite="geneval",
        prompts_per_tag=1,
        images_per_prompt=1,
        num_inference_steps=1,
        resolution_px=32,
        detector=DetectorConfig(segmenter="./nowhere"),
    )
    with pytest.raises(UndetectedError, match=r"evaluate\.detector\.segmenter: \./nowhere") as caught:
        evaluate("base", None, backbone, Store(str(tmp_path)), config=config)
    assert "softalign geneval score" in caught.value.fix
    folder = Path(caught.value.where)
    drawn = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}
    assert len(drawn) == len(read_folders(folder)) == 6
    (tmp_path / "segmenter").mkdir()
    handed_over = config.model_copy(update={"detector": DetectorConfig(segmenter=str(tmp_path / "segmenter"))})
    monkeypatch.setattr(undetected, "check_detector", lambda _config: None)
    monkeypatch.setattr(arms, "detector_for", lambda *_: lambda images: [[] for _ in images])
    monkeypatch.setattr(arms, "draw_arm", None)
    report = evaluate("base", None, backbone, Store(str(tmp_path)), config=handed_over, key="another")
    assert report.suite.startswith("geneval+") and report.num_images == 6
    assert {name: arms_images(report).read(name) for name in drawn} == drawn
    assert not folder.exists()


def test_base_takes_no_adapter_and_the_others_need_one(backbone, publish_tokens, tmp_path):
    store = Store(str(tmp_path))
    adapter = publish_tokens(store)
    for arm, given in (("base", adapter), ("guided_base", adapter), ("untrained", None), ("adapter", None)):
        with pytest.raises(ConfigError, match="do not go together"):
            evaluate(arm, given, backbone, store)


def test_results_are_read_back(small, backbone, tmp_path):
    report = evaluate("base", None, backbone, Store(str(tmp_path)))
    results = read_results(tmp_path / "evaluate/base-key/results.jsonl")
    assert len(results) == report.num_images
    assert sum(result.correct for result in results) == sum(tag.num_correct for tag in report.tags)


def test_the_champion_is_drawn_with_the_files_of_its_folder(small, backbone, tmp_path, publish_tokens):
    store = Store(str(tmp_path))
    adapter = publish_tokens(store)
    config = CONFIG.model_copy(update={"champion": f"a-model/1#{adapter.weights_sha256}"})
    candidate = evaluate("adapter", adapter, backbone, store)
    made = arms.evaluate("champion", None, backbone, config, RUNTIME, store, "c", champion_path=adapter.uri)
    assert image(made) == image(candidate) and made.adapter_digest == adapter.weights_sha256
    for arm, path in (("champion", ""), ("base", adapter.uri)):
        with pytest.raises(ConfigError, match="do not go together"):
            arms.evaluate(arm, None, backbone, config, RUNTIME, store, "d", champion_path=path)
