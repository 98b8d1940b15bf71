"""What earlier versions wrote is read, verified and resumed by this one; nothing here writes to what is stored."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from softalign.adapters.base_fingerprint import fingerprint_of
from softalign.adapters.files import load_adapter, read_adapter_config
from softalign.artifacts import (
    Adapter,
    ComparisonReport,
    DatasetManifest,
    EncodedManifest,
    EvalReport,
    ModelVersion,
)
from softalign.config import Runtime
from softalign.data.curation.shards import read_index, read_rejections
from softalign.data.encoding.reader import EncodedReader
from softalign.evaluation.report.curves import read_curves
from softalign.geneval.scoring import read_results
from softalign.registry import registered_decision
from softalign.store.files import list_files, sha256_of_file
from softalign.store.store import Store
from softalign.training import train as training
from softalign.training.checkpoints import list_checkpoints, read_checkpoint
from tests.artifacts import write
from tests.tiny_families import FAMILIES

STORED = Path(__file__).parent
VERSIONS = sorted(path.name for path in STORED.iterdir() if (path / "written.json").is_file())
SUFFIXES = {"", ".json", ".jsonl", ".md", ".html", ".png", ".parquet", ".tar", ".safetensors"}
KEYS = {
    "dataset": DatasetManifest,
    "encoded": EncodedManifest,
    "trained": Adapter,
    "adapter-key": EvalReport,
    "comparison": ComparisonReport,
    "registered": ModelVersion,
}


@pytest.fixture(scope="module", params=[*VERSIONS, pytest.param("today", marks=pytest.mark.slow)])
def stored(request, tmp_path_factory):
    """A stored version's folder, and one that is written now."""
    if request.param != "today":
        return STORED / request.param
    folder = tmp_path_factory.mktemp("written") / "today"
    write.write(folder)
    return folder


@pytest.fixture
def folder(stored, tmp_path, monkeypatch):
    """A copy to work in."""
    shutil.copytree(stored, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "copy"


@pytest.fixture
def store(folder):
    return Store(str(folder / "store"))


def test_the_files_are_those_that_were_written(stored):
    written = json.loads((stored / "written.json").read_text())
    found = {entry.path: entry.sha256 for entry in list_files(stored) if entry.path != "written.json"}
    assert found == written["files"]
    assert {Path(name).suffix for name in found} <= SUFFIXES
    assert written["library_version"] and written["formats"].keys() == {"record", "adapter_config", "checkpoint"}


def test_all_of_them_together_stay_small():
    assert sum(path.stat().st_size for path in STORED.rglob("*") if path.is_file()) <= 1_000_000


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_read_and_knows_its_base(stored, family):
    path, tiny = stored / "adapters" / family, FAMILIES[family]
    config = read_adapter_config(path)
    assert config.family == family
    assert config.base_fingerprint == fingerprint_of(tiny.make_module(dtype=torch.float32))
    tensors = load_file(path / "soft_tokens.safetensors")
    for use_ema, prefix in ((False, ""), (True, "ema.")):
        tokens = load_adapter(path, use_ema=use_ema)
        assert torch.equal(tokens.banks[0], tensors[f"{prefix}soft_tokens.positive"])
        assert torch.equal(tokens.banks[1], tensors[f"{prefix}soft_tokens.negative"])
        assert torch.equal(tokens.timestep_offsets, tensors[f"{prefix}timestep_offsets"])
        assert tokens.num_layers == (tiny.layers[0] if tiny.layers else None)


@pytest.mark.parametrize("key", KEYS)
def test_a_record_is_read_and_its_files_are_whole(store, key):
    record = store.find(KEYS[key], key)
    root = store.fetch(record)
    assert all(sha256_of_file(root / entry.path) == entry.sha256 for entry in store.files(record))
    stored_digest = json.loads((root / record.filename).read_text())["digest"]
    assert record.digest == stored_digest


def test_the_records_name_one_another(store):
    dataset, encoded, adapter, report, comparison, version = (store.find(kind, key) for key, kind in KEYS.items())
    assert encoded.parents == (dataset.digest,)
    assert adapter.parents == (encoded.digest,) and adapter.dataset_digest == dataset.digest
    assert report.adapter_digest == adapter.digest
    assert {report.digest, adapter.digest} <= set(comparison.parents)
    assert {adapter.digest, comparison.digest, report.digest} <= set(version.parents)
    assert registered_decision(version, store).alias == version.alias


def test_a_dataset_is_read(store):
    dataset = store.find(DatasetManifest, "dataset")
    root = store.fetch(dataset)
    rows = read_index(root / "shard-000000.parquet")
    shard = (root / "shard-000000.tar").read_bytes()
    assert len(rows) == dataset.num_samples > 10
    for row in rows:
        (root / "image.png").write_bytes(shard[row.offset_bytes : row.offset_bytes + row.size_bytes])
        assert sha256_of_file(root / "image.png") == row.image_digest
        with Image.open(root / "image.png") as image:
            assert image.size == (row.width_px, row.height_px)
    rejected = list(read_rejections(root / "rejected.parquet"))
    assert len(rejected) == sum(reason.count for reason in dataset.rejected)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_encoded_set_is_read(store, split):
    encoded = store.find(EncodedManifest, "encoded")
    reader = EncodedReader(encoded, store, split=split, batch_size=1, seed=0)
    batches = [reader.batch_at(number) for number in range(reader.num_samples)]
    assert len({batch.keys for batch in batches}) == reader.num_samples > 1
    for batch in batches:
        assert batch.latents_BCHW.shape[1:] == encoded.latent_shape
        assert batch.text.prompt_embeds_NLD.shape[1:] == encoded.text_shape
        assert all(torch.isfinite(tensor).all() for tensor in (batch.latents_BCHW, batch.text.prompt_embeds_NLD))


def test_an_evaluation_is_read(store):
    report = store.find(EvalReport, "adapter-key")
    results = read_results(store.fetch(report) / "results.jsonl")
    assert len(results) == report.num_images
    comparison = store.find(ComparisonReport, "comparison")
    assert comparison.overall_adapter == report.overall_score
    assert store.find(Adapter, "trained").weights_sha256
    assert read_curves(store.fetch(store.find(Adapter, "trained")) / "metrics.jsonl")


def test_a_checkpoint_is_resumed_to_the_end(folder, store, monkeypatch, caplog):
    """The run's digest is the stored one: it is made of the recipe, whose fields may have other names by now."""
    encoded, expected = store.find(EncodedManifest, "encoded"), store.find(Adapter, "trained")
    work = store.work_path("train", "resumed")
    shutil.copytree(folder / "run", work, dirs_exist_ok=True)
    (checkpoint,) = list_checkpoints(work / "checkpoints")
    progress, _ = read_checkpoint(checkpoint)
    assert (progress.step, progress.samples_seen) == (write.STOPPED_AFTER, 3 * write.STOPPED_AFTER)
    monkeypatch.setattr(training, "digest_of", lambda _: progress.run_digest)
    caplog.set_level(logging.INFO)
    adapter = training.train(encoded, write.BACKBONE, write.TRAINING, Runtime(), store, "resumed", write.NAME)
    assert f"resuming at step {write.STOPPED_AFTER}" in caplog.text
    assert (adapter.num_steps, adapter.samples_seen) == (expected.num_steps, expected.samples_seen)
    for use_ema in (False, True):
        resumed, whole = (load_adapter(store.fetch(record), use_ema=use_ema) for record in (adapter, expected))
        torch.testing.assert_close(resumed.banks, whole.banks, rtol=1e-4, atol=1e-6)  # other machines round otherwise
        torch.testing.assert_close(resumed.timestep_offsets, whole.timestep_offsets, rtol=1e-4, atol=1e-6)
    rows = (store.fetch(adapter) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [
        json.loads(row)["step"] for row in (store.fetch(expected) / "metrics.jsonl").read_text().splitlines()
    ]
