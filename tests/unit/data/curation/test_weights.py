"""Weights of sources and of caption columns: kept where they are told, and no byte of datasets that tell none."""

import json
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from softalign.artifacts import SourceWeight
from softalign.config.curation import HFSource, TableSource
from softalign.data.curation.changes import CaptionEdit, changed_listing
from softalign.data.curation.pipeline import curate
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.samples import HeldImage, ListedSample, WeightedCaption, weight_of
from softalign.data.curation.shards import read_index
from softalign.data.versions.diff import compare_datasets
from softalign.data.versions.pages.data_page import render_dataset
from softalign.data.versions.pages.diff_page import render_diff
from softalign.store.files import list_files
from softalign.store.store import Store


@pytest.fixture
def table(handover):
    """Build a table of the handover's images with a short and two long captions each; `weights` are of the columns."""
    handover.add_pictures(6)

    def build(suffix=".parquet", weights=(), **fields):
        names = [name for name, _ in handover.rows]
        columns = {
            "file_name": names,
            "short": [f"short of {name[:3]}" for name in names],
            "long": [[f"long of {name[:3]}", f"longer of {name[:3]}"] for name in names],
        }
        path = handover.root / f"t{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.table(columns), path)
        else:
            path.write_text("".join(f"{json.dumps(row)}\n" for row in pa.table(columns).to_pylist()))
        return TableSource(
            table_uri=str(path),
            images_uri=str(handover.images),
            caption_columns=("short", "long"),
            caption_weights=weights,
            **fields,
        )

    return build


def rows_of(manifest):
    return [row for path in sorted(Path(manifest.uri).glob("shard-*.parquet")) for row in read_index(path)]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_captions_keep_their_columns_weight(table, store, configure, suffix):
    manifest = curate(configure(table(suffix, (0.5, 2.0))), store, "k")
    rows = rows_of(manifest)
    assert [row.caption_weights for row in rows] == [(0.5, 2.0, 2.0)] * 6
    with tarfile.open(Path(manifest.uri) / "shard-000000.tar") as tar:
        assert json.load(tar.extractfile(f"{rows[0].key}.json"))["caption_weights"] == [0.5, 2.0, 2.0]


def test_captions_of_copies_keep_theirs(table, handover, store, configure):
    copies = handover.coco()
    manifest = curate(configure(copies, table(weights=(1.0, 3.0)), samples_per_shard=2), store, "k")
    for row in rows_of(manifest):
        assert row.source == "0-coco" and row.caption_sources[2:] == ["1-table"] * 3
        assert row.caption_weights == (1.0, 1.0, 1.0, 3.0, 3.0)


def test_weights_of_one_say_nothing(table, store, configure, tmp_path):
    plain = curate(configure(table()), store, "k")
    told = curate(configure(table(weights=(1.0, 1.0), weight=1.0)), Store(str(tmp_path / "other")), "k")
    assert told.digest == plain.digest
    assert list_files(Path(told.uri)) == list_files(Path(plain.uri))
    assert not any("weight" in path.read_bytes().decode("latin-1") for path in Path(plain.uri).glob("shard-*"))
    assert "weights" not in json.loads((Path(plain.uri) / "manifest.json").read_bytes())


def test_sources_weights_are_in_manifest_and_report_and_in_no_shard(table, handover, store, configure, tmp_path):
    plain = curate(configure(table(), handover.coco(), drop_exact_duplicates=False, max_hash_distance=-1), store, "a")
    sources = (table(weight=0.25), handover.coco())
    told = curate(configure(*sources, drop_exact_duplicates=False, max_hash_distance=-1), store, "b")
    assert (plain.weights, told.weights) == ((), (SourceWeight(source="0-table", weight=0.25),))
    assert told.files_digest == plain.files_digest
    assert "draws of an image" not in render_dataset(OpenedDataset(plain, store))
    page = render_dataset(OpenedDataset(told, store))
    assert "draws of an image in an epoch" in page and '<td class="number">0.25</td>' in page


def test_weights_alone_are_a_difference_too(table, store, configure):
    plain, told, other = (
        OpenedDataset(curate(configure(table(weights=weights, weight=weight)), store, key), store)
        for weights, weight, key in (((), 1.0, "a"), ((2.0, 1.0), 0.5, "b"), ((2.0, 1.0), 0.5, "c"))
    )
    diff = compare_datasets(plain, told)
    assert (diff.num_reweighted, diff.captions, diff.images, diff.is_same) == (18, (), (), False)
    assert diff.to_text().splitlines()[-2:] == [
        "weighted otherwise: 18 captions",
        "source 0-table: weight 1 became 0.5",
    ]
    page = render_diff(diff, plain, told)
    assert "18 captions weighted otherwise, source 0-table: weight 1 became 0.5." in page
    assert compare_datasets(told, other).is_same
    alike = OpenedDataset(curate(configure(table(weights=(3.0, 3.0))), store, "d"), store)
    assert compare_datasets(plain, alike).is_same, "no caption is drawn more often than before"


def test_a_reworded_caption_weighs_what_the_one_before_did():
    captions = (WeightedCaption("old words", 3.0), "others")
    listed = ListedSample("0-table", "a.png", HeldImage(b""), captions)
    edits = [
        CaptionEdit(source="0-table", file_name="a.png", action="change", before="old words", caption="new words"),
        CaptionEdit(source="0-table", file_name="a.png", action="add", caption="one more"),
    ]
    (changed,) = changed_listing([listed], edits)
    assert [(caption, weight_of(caption)) for caption in changed.captions] == [
        ("new words", 3.0),
        ("others", 1.0),
        ("one more", 1.0),
    ]


def test_a_weight_goes_to_other_processes():
    copy = pickle.loads(pickle.dumps(WeightedCaption("a cat", 2.0)))  # this test's own bytes
    assert (copy, weight_of(copy)) == ("a cat", 2.0)


@pytest.mark.parametrize("weight", [0, -1, float("inf"), float("nan"), 1e6])
def test_nonsense_is_refused(weight):
    with pytest.raises(ValidationError, match="weight"):
        TableSource(table_uri="t.csv", weight=weight)
    with pytest.raises(ValidationError, match="caption_weights"):
        HFSource(dataset_uri="d", caption_weights=(weight,))


def test_weights_that_do_not_fit_the_columns_are_refused():
    with pytest.raises(ValidationError, match="2 weights for 1 caption_columns"):
        HFSource(dataset_uri="d", caption_weights=(1, 2))
