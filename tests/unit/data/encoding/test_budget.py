"""What encode will write is said before the first byte, and refused where it is too much."""

import logging
from pathlib import Path

import pytest

from softalign.artifacts import EncodedManifest
from softalign.backbones.sizes import ModelSizes, model_sizes
from softalign.config import Runtime
from softalign.data.encoding import budget
from softalign.data.encoding.budget import DIGEST_BYTES, EncodedBytes
from softalign.data.encoding.encode import encode
from softalign.errors import ConfigError, StorageUnavailableError
from softalign.store.store import Store
from softalign.store.traffic import traffic
from tests.unit.data.encoding.test_encode import backbone, captions_of, counted, frozen, make_dataset, store

__all__ = ["backbone", "counted", "frozen", "store"]

LOGGER = "softalign.data.encoding.encode"


def said(caplog):
    return [record.message for record in caplog.records if record.message.startswith("encode writes")]


class Witness(logging.Handler):
    """Notes each line, and what was encoded and written before it."""

    def __init__(self, counted):
        super().__init__()
        self.counted, self.before, self.lines = counted, traffic(), []

    def emit(self, record):
        written = traffic().since(self.before).written_bytes
        self.lines.append((record.getMessage(), written, sum(self.counted.values())))


def test_the_bytes_are_said_first_and_are_what_is_written_or_little_more(tmp_path, store, backbone, counted, caplog):
    dataset = make_dataset(tmp_path, store, captions_of(range(12)), "d")
    witness = Witness(counted)
    logging.getLogger(LOGGER).addHandler(witness)
    with caplog.at_level(logging.INFO, LOGGER):
        manifest = encode(dataset, backbone, Runtime(), store, "e")
    logging.getLogger(LOGGER).removeHandler(witness)
    predicted = EncodedBytes(12, 14, model_sizes(backbone))
    assert witness.lines == [(predicted.said, 0, 0)], "before anything is encoded or written"
    num_shards, header_bytes = 5, 512
    digests = DIGEST_BYTES * (12 + 14)
    assert predicted.total - digests - num_shards * header_bytes < manifest.total_bytes < predicted.total


def test_what_the_store_has_is_not_counted(tmp_path, store, backbone, counted, caplog):
    dataset = make_dataset(tmp_path, store, captions_of(range(12)), "d")
    encode(dataset, backbone, Runtime(), store, "e")
    caplog.clear()
    with caplog.at_level(logging.INFO, LOGGER):
        encode(dataset, backbone, Runtime(encode_budget_gb=1e-9), store, "again")
    assert said(caplog) == ["encode writes an index only: all encodings are in the store"]


def test_above_the_budget_nothing_is_written(tmp_path, store, backbone, counted):
    dataset = make_dataset(tmp_path, store, captions_of(range(12)), "d")
    with pytest.raises(ConfigError, match=r"runtime\.encode_budget_gb") as refusal:
        encode(dataset, backbone, Runtime(encode_budget_gb=1e-6), store, "e")
    assert refusal.value.expected == "at most 1e-06 GB (runtime.encode_budget_gb)"
    assert "12 images, 14 texts" in refusal.value.found
    assert refusal.value.where == store.uri
    assert "encode.text=online" in refusal.value.fix
    assert counted == {"images": 0, "texts": 0}
    assert not (Path(store.uri) / "encoded").exists()
    assert store.find(EncodedManifest, "e") is None
    encode(dataset, backbone, Runtime(encode_budget_gb=1), store, "e")


def test_without_room_on_a_local_disk_nothing_is_written(tmp_path, store, backbone, counted, monkeypatch):
    dataset = make_dataset(tmp_path, store, captions_of(range(12)), "d")
    monkeypatch.setattr(budget, "free_bytes", lambda _folder: 10)
    with pytest.raises(StorageUnavailableError, match="no room") as refusal:
        encode(dataset, backbone, Runtime(), store, "e")
    assert (refusal.value.found, refusal.value.where) == ("0.00 MB free", store.uri)
    assert not (Path(store.uri) / "encoded").exists()
    budget.require_room(EncodedBytes(1, 1, ModelSizes(1, 1, 1)), Runtime(), Store("memory://elsewhere"))
