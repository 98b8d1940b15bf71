"""An image that is listed several times keeps the captions of all listings, wherever they are."""

import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softalign.config import CocoSource, TableSource
from softalign.config.captions import CaptionFilterConfig
from softalign.data.curation import reading, shards, tars
from softalign.data.curation.changes import CaptionEdit, to_lines
from softalign.data.curation.merging import MergedShards
from softalign.data.curation.pipeline import curate
from softalign.data.curation.reuse import Beside
from softalign.data.curation.shards import read_index, read_rejections
from softalign.stages.narration import dataset_figures
from softalign.store.files import list_files
from softalign.store.store import Store
from tests.killing import Fuse, is_killed


def rows_of(manifest):
    return [row for path in sorted(Path(manifest.uri).glob("shard-*.parquet")) for row in read_index(path)]


def repeat(handover, name, of, captions):
    handover.add(name, captions, data=(handover.images / of).read_bytes())


@pytest.fixture
def repeated(handover):
    """Six images; copies within a shard, in a later one, and after the last."""
    handover.add_pictures(2)
    repeat(handover, "near.png", "000.png", ["a near copy", "picture number 0"])
    handover.add_pictures(4, start=2)
    repeat(handover, "far.png", "000.png", ["a far copy", "a near copy"])
    repeat(handover, "last.png", "003.png", ["the last"])
    return handover


def test_captions_of_copies_go_to_the_image_that_is_kept(repeated, store, configure):
    manifest = curate(configure(repeated.coco(), samples_per_shard=2), store, "k")
    rows = {row.file_name: row for row in rows_of(manifest)}
    first = rows["000.png"]
    assert first.captions == ["picture number 0", "another view of 0", "a near copy", "a far copy"]
    assert first.caption_files == ["000.png", "000.png", "near.png", "far.png"]
    assert first.caption_sources == ["0-coco"] * 4
    assert first.caption_digests == [shards.caption_digest(caption) for caption in first.captions]
    assert rows["003.png"].captions == ["picture number 3", "another view of 3", "the last"]
    assert [len(rows[name].captions) for name in ("001.png", "002.png", "004.png", "005.png")] == [2] * 4
    assert (manifest.num_samples, manifest.num_captions, manifest.num_merged_captions) == (6, 15, 3)
    assert [(entry.reason, entry.count) for entry in manifest.rejected] == [("exact_duplicate", 3)]
    assert "; 3 captions are of exact duplicates; rejected: 3 exact_duplicate" in dataset_figures(manifest)


def test_tar_and_index_say_the_same(repeated, store, configure):
    manifest = curate(configure(repeated.coco(), samples_per_shard=2), store, "k")
    for path in sorted(Path(manifest.uri).glob("shard-*.tar")):
        data = path.read_bytes()
        for row in read_index(path.with_suffix(".parquet")):
            with tarfile.open(path) as tar:
                metadata = json.load(tar.extractfile(f"{row.key}.json"))
                image = tar.extractfile(f"{row.key}.png").read()
            assert (metadata["captions"], metadata["caption_files"]) == (row.captions, row.caption_files)
            assert data[row.offset_bytes : row.offset_bytes + row.size_bytes] == image
            assert image == (repeated.images / row.file_name).read_bytes()


def test_a_second_source_adds_captions_of_its_own(repeated, store, configure, tmp_path):
    table = {"images": [{"id": 1, "file_name": "001.png"}]}
    table["annotations"] = [{"id": 1, "image_id": 1, "caption": caption} for caption in ("seen anew", "x")]
    (tmp_path / "more.json").write_text(json.dumps(table))
    more = CocoSource(annotations_uri=str(tmp_path / "more.json"), images_uri=str(repeated.images))
    rows = {row.file_name: row for row in rows_of(curate(configure(repeated.coco(), more), store, "k"))}
    assert rows["001.png"].captions[2:] == ["seen anew"], "captions that do not pass are not merged either"
    assert rows["001.png"].caption_sources == ["0-coco", "0-coco", "1-coco"]


def test_copies_that_are_kept_keep_their_captions(repeated, store, configure):
    manifest = curate(configure(repeated.coco(), drop_exact_duplicates=False, max_hash_distance=-1), store, "k")
    assert (manifest.num_samples, manifest.num_merged_captions) == (9, 0)
    assert all(set(row.caption_files) == {row.file_name} for row in rows_of(manifest))


def test_killed_at_any_moment_of_merging_it_ends_with_the_same_bytes(repeated, tmp_path, configure, monkeypatch):
    config = configure(repeated.coco(), samples_per_shard=2)
    expected = curate(config, Store(str(tmp_path / "undisturbed")), "k")
    content = [(entry.path, entry.sha256) for entry in list_files(Path(expected.uri))]
    merge, read, num_kills = MergedShards.merge, reading.read_sample, 0
    for number in range(1, 60):
        store, seen = Store(str(tmp_path / f"killed-{number}")), []

        def killed(store=store, number=number):
            def merging(*args):
                fuse = Fuse(number)
                for owner, name in ((os, "replace"), (shards, "write_table"), (tars.ShardWriter, "append")):
                    setattr(owner, name, fuse.wrap(getattr(owner, name)))
                return merge(*args)

            MergedShards.merge = merging
            curate(config, store, "k")

        if not is_killed(killed):
            break
        num_kills += 1
        with monkeypatch.context() as patched:
            patched.setattr(
                reading, "read_sample", lambda *args, seen=seen: seen.append(args[0].filename) or read(*args)
            )
            again = curate(config, store, "k")
        assert seen == ["far.png", "last.png"], "what follows the last shard, and nothing else, is read again"
        assert again.digest == expected.digest
        assert [(entry.path, entry.sha256) for entry in list_files(Path(again.uri))] == content
    assert 15 < num_kills < 40


def test_tables_of_earlier_versions_are_read(repeated, store, configure, tmp_path):
    path = next(Path(curate(configure(repeated.coco()), store, "k").uri).glob("shard-*.parquet"))
    table = pq.read_table(path).drop_columns(["caption_sources", "caption_files"])
    pq.write_table(table, tmp_path / "old.parquet")
    row = read_index(tmp_path / "old.parquet")[0]
    assert row.caption_files == [row.file_name] * len(row.captions)


def table_of(tmp_path, rows):
    """Return a source of images within a table, whose paths need not tell its rows apart."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": data, "path": path} for path, data, _ in rows]
    columns = {"image": pa.array(cells, image), "caption": pa.array([row[2] for row in rows], pa.list_(pa.string()))}
    pq.write_table(pa.table(columns), tmp_path / "table.parquet")
    return TableSource(table_uri=str(tmp_path / "table.parquet"), image_column="image")


@pytest.mark.parametrize("captions_in_tars", [True, False])
def test_one_path_listed_twice_is_two_listings_also_when_merging_is_killed(
    handover, tmp_path, configure, captions_in_tars
):
    handover.add_pictures(3)
    first, second, third = ((handover.images / f"{number:03d}.png").read_bytes() for number in range(3))
    rows = [("a.png", first, ["one"]), ("b.png", second, ["two"]), ("c.png", first, ["copy says"])]
    source = table_of(tmp_path, [*rows, ("a.png", first, ["said later"]), ("d.png", third, ["fine"])])
    config = configure(source).model_copy(update={"captions_in_tars": captions_in_tars})
    expected = curate(config, Store(str(tmp_path / "undisturbed")), "k")
    assert rows_of(expected)[0].captions == ["one", "copy says", "said later"]
    assert (expected.num_captions, expected.num_merged_captions) == (5, 2)
    store = Store(str(tmp_path / "killed"))

    def killed():
        fuse = Fuse(1)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Store, "publish", fuse.wrap(Store.publish))
            curate(config, store, "k")

    assert is_killed(killed)
    assert curate(config, store, "k").digest == expected.digest


def test_captions_of_copies_that_are_near_duplicates_are_listed_as_lost(handover, store, tmp_path, configure):
    handover.add_pictures(3)
    repeat(handover, "copy.png", "001.png", ["x", "A picture number 1.", "something else", "Something  else!"])
    repeat(handover, "again.png", "001.png", ["something else", "the something else"])
    config = configure(handover.coco(), captions=CaptionFilterConfig(max_similarity=1.0))
    manifest = curate(config, store, "k")
    assert rows_of(manifest)[1].captions == ["picture number 1", "another view of 1", "something else"]
    lost = read_rejections(Path(manifest.uri) / "rejected.parquet")
    assert [(one.file_name, one.caption_index) for one in lost if one.reason == "caption_near_duplicate"] == [
        ("copy.png", 3),
        ("again.png", 1),
        ("copy.png", 1),
    ]
    assert dict((entry.reason, entry.count) for entry in manifest.rejected)["caption_near_duplicate"] == 3
    assert (manifest.num_captions, manifest.num_merged_captions) == (7, 1)
    path = tmp_path / "changes.jsonl"
    edit = CaptionEdit(
        source="0-coco", file_name="001.png", action="change", before="picture number 1", caption="other words"
    )
    path.write_bytes(to_lines([edit]))
    changed = config.model_copy(update={"caption_changes": (str(path),)})
    child = curate(changed, store, "child", beside=Beside("k"))
    assert rows_of(child)[1].captions == ["other words", "another view of 1", "A picture number 1.", "something else"]
    assert child.digest == curate(changed, Store(str(tmp_path / "scratch")), "child").digest
