"""Odd files and rows by the hundred: curation ends, every item is kept or rejected by name, and twice the same."""

import json
from collections import Counter
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest
from PIL import Image

from softalign.config import load_recipe
from softalign.config.curation import CocoSource
from softalign.data.curation import pipeline
from softalign.data.curation.caption_files import IMAGE_SUFFIXES
from softalign.data.curation.fingerprint import source_fingerprint
from softalign.data.curation.listing import files_below
from softalign.data.curation.names import shown
from softalign.data.curation.pipeline import curate
from softalign.data.curation.rejections import Reason
from softalign.data.curation.shards import read_index
from softalign.stages.planned_bytes import curate_bytes
from softalign.stages.published import Published
from softalign.store.files import list_files
from softalign.store.store import Store
from tests.odd_sources import OddSource, cell_of


def rejected_of(manifest):
    return pq.read_table(Path(manifest.uri) / "rejected.parquet").to_pylist()


def kept_of(manifest):
    return [row.file_name for row in rows_of(manifest)]


def rows_of(manifest):
    return [row for path in sorted(Path(manifest.uri).glob("shard-*.parquet")) for row in read_index(path)]


def expected_names(odd, table):
    """Return the names under which the items of a table must come out again; what has none comes out by its place."""
    if table in {"coco", "jsonl"}:
        return {shown(name) for name in odd.names if name not in ("", None)}
    if table == "csv":  # a name with a line's end in it is none there
        return {shown(name) for name in odd.names if isinstance(name, str) and name and is_plain(name)}
    if table == "folder":
        return {
            name
            for name, _ in files_below(str(odd.images))
            if name.lower().endswith(IMAGE_SUFFIXES)
            and not any(part.startswith(".") for part in name.split("/"))  # hidden ones are none
            and is_text(name.encode("utf-8", "surrogateescape"))
        }
    if table == "tars":  # those of the whole one that end in the image's extension
        return {
            f"0.tar/{name}"
            for name in odd.names[::2]
            if odd.content(name) is not None
            and f"{name}".count(".") == 1
            and f"{name}".endswith(IMAGE_SUFFIXES)
            and is_plain(name)
        }
    return {shown(name if is_text(cell) else cell) for name in odd.names if (cell := cell_of(name))}


def is_plain(name):
    """Whether a name has nothing that lines, quotes or systems could stumble over."""
    return name.isascii() and name.isprintable() and not set(name) & set(',"/\\')


def is_text(cell):
    """Whether bytes are UTF-8."""
    try:
        return bool(cell.decode())
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("table", ["coco", "parquet", "stored", "csv", "jsonl", "folder", "tars"])
@pytest.mark.parametrize("num_items", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_item_is_kept_or_rejected_by_name_and_twice_the_same(tmp_path, configure, table, num_items):
    odd = OddSource(tmp_path / "odd").fill(num_items, seed=num_items)
    source = odd.coco(seed=1) if table == "coco" else getattr(odd, table)()
    stores = [Store(str(tmp_path / name)) for name in ("one", "two")]
    manifests = [curate(configure(source, samples_per_shard=32), store, "k") for store in stores]
    assert manifests[0].digest == manifests[1].digest
    assert len({tuple((e.path, e.sha256) for e in list_files(Path(m.uri))) for m in manifests}) == 1

    kept, rejected = kept_of(manifests[0]), rejected_of(manifests[0])
    lost = [row["file_name"] for row in rejected if row["caption_index"] == -1]
    assert max(Counter(kept + lost).values()) == 1, "each once"
    assert len(kept) + len(lost) == manifests[0].num_seen
    expected = expected_names(odd, table)
    assert expected <= set(kept + lost)
    assert len(expected) > num_items / 10
    assert {row["reason"] for row in rejected} <= set(get_args(Reason))
    assert source_fingerprint(source) == source_fingerprint(source)
    assert not [row for row in rejected if "0x" in row["detail"] or str(tmp_path) in row["detail"]]
    assert 0.1 * num_items < len(kept) < 0.6 * num_items, "or the generator is not odd, or nothing but"


@pytest.mark.parametrize(
    ("num_items", "seed"), [(50, 0), *(pytest.param(500, seed, marks=pytest.mark.slow) for seed in (1, 2, 3))]
)
def test_a_folder_and_a_table_of_odd_items_come_to_the_same_in_other_folders_with_other_threads(
    tmp_path, configure, monkeypatch, num_items, seed
):
    manifests, table = [], "coco" if seed % 2 else "parquet"
    for place, num_readers in (("one", 1), ("two/deeper", 7)):
        monkeypatch.setattr(pipeline, "NUM_READERS", num_readers)
        files, rows = (OddSource(tmp_path / place / kind).fill(num_items, seed + n) for n, kind in enumerate("ab"))
        sources = files.folder(), rows.coco(seed) if table == "coco" else rows.parquet()
        store = Store(str(tmp_path / place / "store"))
        manifests.append(curate(configure(*sources, samples_per_shard=16), store, "k"))
    assert manifests[0].digest == manifests[1].digest
    assert len({tuple((e.path, e.sha256) for e in list_files(Path(m.uri))) for m in manifests}) == 1

    rejected = rejected_of(manifests[0])
    lost = [(row["source"], row["file_name"]) for row in rejected if row["caption_index"] == -1]
    kept = [(row.source, row.file_name) for row in rows_of(manifests[0])]
    assert max(Counter(kept + lost).values()) == 1, "each once"
    assert len(kept) + len(lost) == manifests[0].num_seen
    named = {name for _, name in kept + lost}
    assert expected_names(files, "folder") | expected_names(rows, table) <= named
    assert {row["reason"] for row in rejected} <= set(get_args(Reason))
    assert not [row for row in rejected if "0x" in row["detail"] or str(tmp_path) in row["detail"]]
    assert "exact_duplicate" in {row["reason"] for row in rejected}


def test_links_that_lead_nowhere_or_in_circles_end_neither_the_listing_nor_the_run(tmp_path):
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    Image.new("RGB", (48, 48)).save(images / "more/a.png")
    (images / "gone.png").symlink_to("nowhere.png")
    (images / "loop.png").symlink_to("loop.png")
    (images / "more/up").symlink_to("..")
    names = ["more/a.png", "gone.png", "loop.png"]
    listed = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    captions = [{"image_id": number, "caption": f"picture {number}"} for number in range(len(names))]
    (tmp_path / "captions.json").write_text(json.dumps({"images": listed, "annotations": captions}))
    source = CocoSource(type="coco", annotations_uri=str(tmp_path / "captions.json"), images_uri=str(images))
    changes = [f"curation.sources=[{source.model_dump_json()}]"]
    size = (images / "more/a.png").stat().st_size
    assert curate_bytes(load_recipe("shapes-unet", changes), Published()) == size
    before = source_fingerprint(source)
    assert source_fingerprint(source) == before
    (images / "softalign-store/curate").mkdir(parents=True)
    (images / "softalign-store/curate/manifest.json").write_text("a run's own files are no change of its source")
    assert source_fingerprint(source) == before
    (images / "nowhere.png").write_bytes(b"now it leads somewhere")
    assert source_fingerprint(source) != before
