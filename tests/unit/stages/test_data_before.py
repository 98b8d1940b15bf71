"""What changed in the data since the champion: by content, and never a reason to stop."""

import json
from dataclasses import make_dataclass

import pytest

from softalign.adapters.files import CONFIG_FILENAME
from softalign.artifacts import DatasetManifest, digest_of
from softalign.artifacts.card import DataChange
from softalign.data.curation.shards import write_table
from softalign.errors import RegistryError
from softalign.stages.data_before import data_change
from softalign.store.store import Store
from tests.sample_records import ADAPTER
from tests.tiny_adapter import write_adapter
from tests.tiny_unet import make_unet

SCHEMA = {"image_digest": "string", "caption_digests": "list"}


def publish(store, captions):
    """Publish a dataset of these images' captions, in two shards."""
    row = make_dataclass("Row", ["image_digest", "caption_digests"])
    key = digest_of(captions)
    folder, items = store.work_path("curate", key), list(captions.items())
    for number, part in enumerate((items[:2], items[2:])):
        write_table(folder / f"shard-{number:06d}.parquet", [row(*item) for item in part], SCHEMA)
    counts = dict.fromkeys(("num_captions", "num_val_samples", "total_bytes", "num_seen"), 0)
    record = DatasetManifest(stage_key=key, name="cats", num_samples=len(items), num_shards=2, **counts)
    return store.publish(record, folder)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def champion(tmp_path):
    """Return a function that gives the champion's folder, trained on a dataset."""

    def trained_on(digest):
        folder = write_adapter(tmp_path / "champion", "sd15", make_unet())
        stored = json.loads((folder / CONFIG_FILENAME).read_text())
        (folder / CONFIG_FILENAME).write_text(json.dumps({**stored, "dataset_digest": digest}))
        return lambda: folder

    return trained_on


def test_images_and_captions_are_told_apart_by_content(store, champion):
    before = publish(store, {"a": ["1"], "b": ["2"], "c": ["3", "4"]})
    after = publish(store, {"b": ["2"], "c": ["4", "5"], "d": ["6"], "e": ["7"]})
    adapter = ADAPTER.model_copy(update={"dataset_digest": after.digest})
    expected = {"num_images_before": 3, "num_images": 4, "num_added": 2, "num_removed": 1, "num_recaptioned": 1}
    assert data_change(adapter, "cats/2", champion(before.digest), store) == DataChange(
        before="cats/2", is_known=True, is_same=False, **expected
    )
    same = data_change(adapter, "cats/2", champion(after.digest), store)
    assert (same.is_same, same.num_added) == (True, 0)
    gone = data_change(adapter, "cats/2", champion("0" * 64), store)
    assert (gone.is_known, gone.is_same) == (False, False)


def test_what_cannot_be_told_stops_nothing(store, champion, caplog):
    def refused():
        raise RegistryError("'cats' has no version 2.")

    assert data_change(ADAPTER, "cats/2", refused, store) is None and "no version 2" in caplog.text
    assert data_change(ADAPTER, "", refused, store) is None
    assert data_change(ADAPTER, "cats/2", champion(""), store) is None
