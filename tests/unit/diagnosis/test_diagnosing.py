"""``softalign diagnose``: what it is asked about, what it refuses, and all of it on an embedded adapter."""

import json
import sys
from html import unescape

import pytest
import torch

from softalign.artifacts import Adapter, DatasetManifest, EncodedManifest
from softalign.backbones.loading import load_backbone
from softalign.cli import app
from softalign.config import BackboneConfig
from softalign.config.loading import load_recipe
from softalign.diagnosis.records import Diagnosis
from softalign.errors import ConfigError
from softalign.stages.diagnosing import is_recipe, published_through
from softalign.stages.published import Published
from softalign.stages.table import steps_of
from softalign.store.store import Store
from tests.sample_records import ADAPTER, ENCODED
from tests.tiny_adapter import write_adapter


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    config = BackboneConfig(family="sd3", model="shapes", has_t5=False)
    backbone = load_backbone(config, device=torch.device("cpu"), dtype=torch.float32, parts=("denoiser",))
    return write_adapter(tmp_path_factory.mktemp("adapter"), "sd3", backbone.denoiser, is_random=True)


def softalign(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["softalign", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        app.main()
    return stop.value.code or 0


def test_an_adapter_of_the_embedded_world_is_diagnosed_into_a_folder(adapter, tmp_path, monkeypatch, capsys):
    options = ("--base", "shapes", "--num-images", 4, "--device", "cpu", "--store", tmp_path / "store")
    assert softalign(monkeypatch, "diagnose", adapter, *options, "--out", tmp_path / "out", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("page") == str(tmp_path / "out" / "diagnosis.html")
    found = Diagnosis.model_validate(shown)
    assert Diagnosis.model_validate_json((tmp_path / "out" / "diagnosis.json").read_text()) == found
    assert (found.num_images, found.device, found.dtype, found.family) == (4, "cpu", "float32", "sd3")
    assert [change.timestep for change in found.changes] == [100, 300, 500, 700, 900]
    assert all(change.adapter.mean > 0 for change in found.changes)
    assert {one.block for one in found.attention} == {"transformer_blocks.0"}
    assert found.gradients == found.weights == ()
    assert any("step-0 tokens" in text for text in found.missing)
    assert any("does not say how it was trained" in text for text in found.missing)
    page = unescape((tmp_path / "out" / "diagnosis.html").read_text())
    assert all(finding in page for finding in found.findings)


def test_the_adapter_that_a_recipe_trained_is_found(adapter, tmp_path):
    recipe, store = load_recipe("shapes"), Store(str(tmp_path / "store"))
    kept = Published()
    counts = {"num_samples": 10, "num_captions": 20, "num_val_samples": 1, "num_shards": 1, "num_seen": 12}
    dataset = DatasetManifest(stage_key="", name="shapes", total_bytes=100, **counts)
    for step, record in zip(steps_of(recipe), (dataset, ENCODED, ADAPTER), strict=False):
        key = step.request(kept, store).key
        folder = store.work_path(step.row.name, key) / "out"
        folder.mkdir(parents=True)
        (folder / "any").write_text("x")
        made = store.publish(record.model_copy(update={"stage_key": key, "parents": ()}), folder)
        kept = kept.plus(step.label, made)
    found = published_through("train", recipe, store)
    assert found == kept
    assert (found.get(Adapter).name, found.get(EncodedManifest).name) == ("a", "d")


def test_recipes_are_told_from_adapters(adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store(str(tmp_path / "store"))
    (tmp_path / "store" / "recipes").mkdir(parents=True)
    (tmp_path / "store" / "recipes" / "cats.yaml").write_text("name: cats\n")
    recipes = ("shapes", "cats", "a/cats.yaml", "s3://bucket/cats.yml", "git+https://host/r@main#cats.yaml")
    adapters = (str(adapter), "models:/cats@champion", "owner/name", "s3://bucket/adapter", "nosuch")
    assert [is_recipe(target, store) for target in (*recipes, *adapters)] == [True] * 5 + [False] * 5
    (tmp_path / "shapes").mkdir()
    assert not is_recipe("shapes", store), "a folder of that name is meant"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shapes", "--data", "shapes"], "has its own data"),
        (["shapes", "--base", "shapes"], "has its own data"),
        (["ADAPTER", "--base", "shapes", "--set", "train.seed=1"], "none is named"),
        (["none", "--base", "shapes"], "no adapter to diagnose"),
        (["shapes"], "softalign curate RECIPE"),
        (["nosuch"], "no adapter folder"),
    ],
)
def test_what_does_not_go_together_is_refused(adapter, tmp_path, monkeypatch, capfd, arguments, said):
    monkeypatch.chdir(tmp_path)
    words = [str(adapter) if word == "ADAPTER" else word for word in arguments]
    assert softalign(monkeypatch, "diagnose", *words, "--store", tmp_path / "store") in (1, 2)
    assert said in capfd.readouterr().err
    assert not (tmp_path / "diagnosis").exists()


def test_a_model_of_photographs_needs_images(adapter, tmp_path):
    from softalign.config import Runtime
    from softalign.diagnosis.diagnose import DiagnosisRequest, diagnose

    base = BackboneConfig(family="sd3", model=str(tmp_path))
    request = DiagnosisRequest("a", adapter, base, Runtime(), tmp_path / "out", 4, 0, 16)
    with pytest.raises(ConfigError, match="no images to diagnose") as caught:
        diagnose(request, Store(str(tmp_path / "store")))
    assert "--data RECIPE" in caught.value.fix
