"""Recipes for photographs through `softalign run`, to a registered version and a page: each layout, tiny and random.

What the stages do in child processes is done in this one: it has loaded the libraries already.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from softalign.cli import app
from softalign.evaluation import arms
from softalign.geneval.prompts import first_of_each_tag, official_prompts
from softalign.registry import promote, pull, registry_of_store
from softalign.stages import work
from softalign.stages.jobs import from_json
from softalign.stages.published import label_of
from softalign.stages.worker import run_job
from softalign.store.store import Store
from tests.tiny_detector import detect_in_small, save_tiny_detector
from tests.tiny_pipeline import save_tiny_pipeline
from tests.tiny_sd3 import save_tiny_sd3
from tests.tiny_sdxl import save_tiny_sdxl

COCO = Path(__file__).parents[3] / "shared/data/coco"
SAVE = {"sd15": save_tiny_pipeline, "sdxl": save_tiny_sdxl, "sd3": save_tiny_sd3}
MADE = {f"{number}.jpg": f"a photo of {number} dogs" for number in range(12)}
PROMPTS = first_of_each_tag(official_prompts(), 2)
NUM_PROMPTS = 12
ARMS = ("base", "untrained", "adapter")
SIDE_PX = 32


def made_pictures(folder):
    """Write twelve pictures, and return their captions by file name, and where they are."""
    folder.mkdir(exist_ok=True)  # without COCO two tests have these pictures, in one recipe
    drawn = np.random.default_rng(0)
    for name in MADE:
        pixels = drawn.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 80), Image.Resampling.BICUBIC).save(folder / name)
    return MADE, folder


def photographs(_folder):
    """Return captions of the first twelve photographs of COCO, and where these are."""
    if not COCO.is_dir():
        pytest.skip("the sample of COCO is not there")
    table = json.loads((COCO / "annotations/captions_train2017.json").read_text())
    captions = {one["image_id"]: one["caption"] for one in table["annotations"]}
    return {image["file_name"]: captions[image["id"]] for image in table["images"][:12]}, COCO / "train2017"


def source(pictures, folder):
    captions, images = pictures(folder.with_suffix(".images"))
    table = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(captions)],
        "annotations": [{"image_id": number, "caption": text} for number, text in enumerate(captions.values())],
    }
    folder.with_suffix(".json").write_text(json.dumps(table))
    return {"type": "coco", "annotations_uri": str(folder.with_suffix(".json")), "images_uri": str(images)}


def recipe_of(family, place, sources):
    texts, tokens = ({"max_sequence_length": 8}, {"num_layers": 2}) if family == "sd3" else ({}, {"init": "normal"})
    detector = {"segmenter": str(place / "detector/segmenter"), "color_classifier": str(place / "detector/clip")}
    return {
        "name": f"tiny-{family}",
        "curation": {"name": "pictures", "sources": sources},
        "backbone": {"family": family, "model": str(place / family), "resolution_px": SIDE_PX, **texts},
        "train": {"num_steps": 2, "batch_size": 3, "soft_tokens": tokens},
        "evaluate": {
            "prompts_per_tag": 2,
            "images_per_prompt": 1,
            "num_inference_steps": 2,
            "resolution_px": SIDE_PX,
            "num_bootstrap": 100,
            "detector": detector,
        },
        "register": {"name": f"tiny-{family}"},
        "runtime": {"device": "cpu", "num_threads": 1},
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models, detector, and one store for all recipes: arms that are the same are drawn once."""
    root = tmp_path_factory.mktemp("photographs")
    save_tiny_detector(root / "detector")
    for family, save in SAVE.items():
        save(root / family)
    return root


@pytest.fixture
def command(monkeypatch, capfd):
    """Return a function that runs a command of the shell here."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    detect_in_small(monkeypatch, 64)  # the detector's answers are random at any size
    monkeypatch.setattr(
        work, "run_child", lambda _module, job, **_: run_job(from_json(job.encode())).model_dump(mode="json")
    )

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["softalign", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            app.main()
        printed = capfd.readouterr()
        return caught.value.code or 0, printed.out, printed.err

    return run


def answer(code, out, err):
    assert code == 0, err
    return json.loads(out)


def write_recipe(place, family, pictures):
    path = place / f"{family}-{pictures.__name__}.yaml"
    path.write_text(yaml.safe_dump(recipe_of(family, place, [source(pictures, path.with_suffix(""))])))
    return path


def arms_of(rows):
    return [row for row in rows if row["label"].startswith("evaluate")]


@pytest.mark.parametrize("family", SAVE)
def test_a_recipe_of_photographs_ends_with_a_version_and_a_page(family, place, command):
    recipe, store = write_recipe(place, family, photographs if COCO.is_dir() else made_pictures), place / "store"
    rows = answer(*command("plan", recipe, "--store", store, "--json"))["stages"]
    assert [row["label"] for row in arms_of(rows)] == [label_of("evaluate", arm) for arm in ARMS]
    assert {row["state"] for row in rows} == {"run", "wait"}
    for row in arms_of(rows):
        assert row["predicted_images"] == NUM_PROMPTS and row["predicted_minutes"] < 0.1
        assert f"{NUM_PROMPTS} images, less than a minute (an estimate, on one A100)" in row["reason"]
    ended = answer(*command("run", recipe, "--plain", "--store", store, "--json"))
    assert (ended["model"], ended["version"], ended["champion"]) == (f"tiny-{family}", 1, "")
    registry = registry_of_store(Store(str(store)))
    assert (pull(f"tiny-{family}/1", tracking_uri=registry) / "soft_tokens.safetensors").is_file()
    page = Path(ended["report_uri"])
    assert all(prompt.prompt in page.read_text() for prompt in PROMPTS)
    compared = json.loads((page.parent / "comparison.json").read_text())
    assert compared["suite"].startswith("geneval+")  # never by the whole suite's name
    assert (compared["num_images_per_arm"], compared["detector"]) == (NUM_PROMPTS, "geneval-hf")
    again = answer(*command("run", recipe, "--plain", "--store", store, "--json"))
    assert (again["num_stages_run"], again["version"]) == (0, 1)


def test_without_its_detector_a_recipe_runs_up_to_its_images_and_goes_on_from_them(place, command, monkeypatch):
    recipe, store = write_recipe(place, "sd15", made_pictures), place / "store"
    first = answer(*command("run", recipe, "--plain", "--store", store, "--json"))
    promote("tiny-sd15", first["version"], "to stand beside the next", registry_of_store(Store(str(store))))
    detector = f"{{segmenter: {place}/later/segmenter, color_classifier: {place}/later/clip}}"
    asked = [recipe, "--store", store, "--set", f"evaluate.detector={detector}", "--set", "evaluate.seed=1"]
    rows = arms_of(answer(*command("plan", *asked, "--json"))["stages"])
    arms_and_champion = [label_of("evaluate", arm) for arm in (*ARMS, "champion")]
    assert [(row["label"], row["state"]) for row in rows] == [(label, "blocked") for label in arms_and_champion]
    for row in rows:
        assert "as this model's last arm in this store), then stops: " in row["reason"]
        assert "no such model of the detector" in row["reason"] and "evaluate.detector.segmenter" in row["fix"]
    code, out, err = command("run", *asked, "--plain")
    assert (code, out) == (1, "") and "evaluate draws its images and stops then" in err
    assert "error: The images are drawn and kept, and nothing here can score them yet." in err
    assert all(f"{label}: {store}/.work/evaluate/" in err for label in arms_and_champion)
    assert f"{place}/later/segmenter" in err and "softalign geneval score DIR --detections FILE" in err
    assert len(list((store / ".work/evaluate").rglob("*.png"))) == len(arms_and_champion) * NUM_PROMPTS
    save_tiny_detector(place / "later", seed=1)
    monkeypatch.setattr(arms, "draw_arm", None)  # nothing is drawn again
    ended = answer(*command("run", *asked, "--plain", "--json"))
    assert (ended["version"], ended["champion"].partition("#")[0]) == (
        first["version"] + 1,
        f"tiny-sd15/{first['version']}",
    )
    assert list((store / ".work/evaluate").rglob("*.png")) == []
