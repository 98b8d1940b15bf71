"""The curate stage: counts, resumption after SIGKILL, and every kind of bad input."""

import errno
import json
import os
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from softalign.artifacts import DatasetManifest
from softalign.config import CocoSource, CurationConfig, ShapesSource
from softalign.data.curation import journal, pipeline, reading, shards
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.pipeline import curate
from softalign.data.curation.shards import read_index
from softalign.data.curation.tars import ShardWriter
from softalign.errors import ConfigError, DataError, IntegrityError, MissingInputError, StorageUnavailableError
from softalign.processes.progress import Figure, listening
from softalign.stages.narration import dataset_figures
from softalign.store.files import list_files
from softalign.store.store import Store
from tests.killing import Fuse, is_killed

COCO = Path(__file__).parents[4].parent / "shared" / "data" / "coco"


def counts(manifest):
    return {entry.reason: entry.count for entry in manifest.rejected}


def rows_of(manifest):
    paths = sorted(Path(manifest.uri).glob("shard-*.parquet"))
    return [row for path in paths for row in read_index(path)]


def content(store, key):
    return [(e.path, e.sha256) for e in list_files(Path(store.prefix("curate", key)))]


def test_all_samples_land_in_shards_in_order(handover, store, configure):
    manifest = curate(configure(handover.add_pictures(10).coco()), store, "k")
    rows = rows_of(manifest)
    assert [row.file_name for row in rows] == [f"{n:03d}.png" for n in range(10)]
    assert (manifest.num_samples, manifest.num_captions, manifest.num_shards, manifest.num_seen) == (10, 20, 3, 10)
    assert manifest.num_val_samples == sum(row.split == "val" for row in rows)
    assert manifest.rejected == ()
    assert all(row.key == row.image_digest[:32] for row in rows)
    assert store.find(DatasetManifest, "k") == manifest


def test_both_tables_give_the_same_dataset(handover, tmp_path, configure):
    handover.add_pictures(6)
    rows = [
        rows_of(curate(configure(source), Store(str(tmp_path / name)), "k"))
        for name, source in (("a", handover.coco()), ("b", handover.parquet()))
    ]
    assert [(r.key, r.captions) for r in rows[0]] == [(r.key, r.captions) for r in rows[1]]


def test_every_rejection_is_counted_and_listed(handover, store, configure, make_picture):
    handover.add_pictures(2)
    handover.add("copy.png", ["the first again"], data=(handover.images / "000.png").read_bytes())
    handover.add("near.png", ["nearly the first"], make_picture(0), compress_level=1)
    handover.add("small.png", ["a small one"], make_picture(50, 31, 40))
    handover.add("long.png", ["a long one"], make_picture(51, 200, 40))
    handover.add("half.png", ["half a file"], data=(handover.images / "001.png").read_bytes()[:400])
    handover.add("half.jpg", ["half a file"], data=b"\xff\xd8\xff\xe0" + b"0" * 100)
    handover.add("text.png", ["no image"], data=b"hello")
    handover.add("gone.png", ["gone"])
    handover.add("../outside.png", ["outside"], make_picture(52))
    handover.add("mute.png", [], make_picture(53))
    handover.add("huge.png", ["x" * 100_000], make_picture(54))
    handover.add("mixed.png", ["fine", "", "fine", 3], make_picture(55))
    manifest = curate(configure(handover.coco()), store, "k")
    assert counts(manifest) == {
        "aspect_ratio": 1,
        "caption_empty": 1,
        "caption_not_text": 1,
        "caption_repeated": 1,
        "caption_too_long": 1,
        "corrupt_image": 3,
        "exact_duplicate": 1,
        "missing_image": 1,
        "no_caption": 1,
        "no_caption_left": 1,
        "perceptual_duplicate": 1,
        "too_small": 1,
        "unsafe_path": 1,
    }
    assert (manifest.num_samples, manifest.num_seen) == (3, 14)
    assert dataset_figures(manifest).startswith("kept 3 of 14 images")
    assert "; rejected: 3 corrupt_image, 1 " in dataset_figures(manifest)
    listed = pq.read_table(Path(manifest.uri) / "rejected.parquet").to_pylist()
    assert len(listed) == sum(counts(manifest).values())
    assert next(r for r in listed if r["file_name"] == "copy.png")["detail"].startswith("same bytes as image")
    by_name = {row["file_name"]: row["reason"] for row in listed if row["caption_index"] == -1}
    assert by_name["half.png"] == by_name["text.png"] == "corrupt_image"


def test_pixels_and_bytes_are_bounded_by_the_recipe(handover, store, configure, make_picture):
    handover.add("fits.png", ["it fits"], make_picture(1))
    handover.add("wide.png", ["one column more"], make_picture(2, 49, 40))
    handover.add("padded.png", ["too many bytes"], data=(handover.images / "fits.png").read_bytes() + bytes(20_000))
    config = configure(handover.coco(), max_pixels=48 * 40, max_file_bytes=20_000)
    assert counts(curate(config, store, "k")) == {"too_many_bytes": 1, "too_many_pixels": 1}


def test_it_reports_what_is_read_and_kept_of_how_many(handover, store, configure):
    heard = []
    handover.add_pictures(6)
    handover.add("text.png", ["no image"], data=b"hello")
    with listening(heard.append):
        curate(configure(handover.coco(), handover.parquet()), store, "k")
    assert (heard[0].done, heard[0].total) == (0, 14)
    last = heard[-1]
    assert (last.stage, last.unit, last.done, last.total, last.is_last) == ("curate", "images", 14, 14, True)
    assert last.figures == (Figure(name="kept", value=6),)


def test_exact_duplicates_that_are_kept_have_keys_of_their_own(handover, store, configure, make_picture):
    for name in ("a.png", "b.png", "c.png"):
        handover.add(name, [f"caption of {name}"], make_picture(1))
    config = configure(handover.coco(), samples_per_shard=2, drop_exact_duplicates=False)
    keys = [row.key for row in rows_of(curate(config, store, "k"))]
    assert keys == [keys[0], f"{keys[0]}-2", f"{keys[0]}-3"]


def test_nothing_left_says_how_many_fell_to_what(handover, store, configure):
    for number in range(3):
        handover.add(f"{number}.png", ["gone"])
    handover.add("mute.png", [])
    message = "4 images; missing_image: 3, no_caption: 1; missing_image such as '0.png'"
    with pytest.raises(DataError, match=message) as caught:
        curate(configure(handover.coco()), store, "k")
    assert caught.value.exit_code == 1
    assert store.find(DatasetManifest, "k") is None


@pytest.mark.parametrize("name", ["captions.json", "nowhere/captions.json"])
def test_a_missing_table_is_an_error_and_nothing_is_published(tmp_path, store, configure, name):
    source = CocoSource(annotations_uri=str(tmp_path / name), images_uri=str(tmp_path))
    with pytest.raises(MissingInputError, match="missing"):
        curate(configure(source), store, "k")
    assert store.find(DatasetManifest, "k") is None


@pytest.mark.parametrize(
    "error", [StorageUnavailableError("down"), ConfigError("refused"), MemoryError(), KeyError("bug")]
)
def test_what_is_not_the_items_failure_rejects_no_sample(handover, store, configure, monkeypatch, error):
    def failing(folder, file_name, max_bytes):
        raise error

    source = handover.add_pictures(2).coco()
    monkeypatch.setattr(ImageFolder, "read", failing)
    with pytest.raises(type(error)):
        curate(configure(source), store, "k")
    assert store.find(DatasetManifest, "k") is None


def test_a_full_disk_ends_the_run(handover, store, configure, monkeypatch):
    def full(self, sample, key):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(OSError, match="No space left"):
        curate(configure(handover.add_pictures(2).coco()), store, "k")


def test_the_same_request_gives_the_same_bytes_anywhere(tmp_path, configure):
    config = configure(ShapesSource(num_scenes=40, seed=1), samples_per_shard=16)
    stores = [Store(str(tmp_path / name)) for name in ("here", "there/deeper")]
    manifests = [curate(config, store, "k") for store in stores]
    assert manifests[0].digest == manifests[1].digest
    assert content(stores[0], "k") == content(stores[1], "k")
    assert not (tmp_path / "here" / ".work" / "curate" / "k").exists()
    assert curate(config, stores[0], "k") == manifests[0], "publishing the same content again changes nothing"


def test_other_content_under_the_same_key_is_refused(handover, store, configure):
    before = curate(configure(handover.add_pictures(3).coco()), store, "k")
    handover.add_pictures(1, start=3)
    with pytest.raises(IntegrityError, match="nothing was overwritten"):
        curate(configure(handover.coco()), store, "k")
    assert store.find(DatasetManifest, "k") == before


def test_a_filter_setting_changes_what_is_kept(handover, tmp_path, configure, make_picture):
    handover.add_pictures(2)
    handover.add("near.png", ["nearly the first"], make_picture(0), compress_level=1)
    source = handover.coco()
    for distance, kept in ((2, 2), (-1, 3)):
        config = configure(source, max_hash_distance=distance)
        assert curate(config, Store(str(tmp_path / f"s{distance}")), "k").num_samples == kept


def test_killed_at_random_points_ends_with_the_same_bytes(handover, tmp_path, configure):
    handover.add_pictures(60).add("gone.png", ["gone"])
    handover.rows += [("", ["nameless"]), ("../a.png", ["outside"]), ("half \ud83d.png", ["half an emoji"])]
    config = configure(handover.coco(), samples_per_shard=7)
    undisturbed, killed = Store(str(tmp_path / "undisturbed")), Store(str(tmp_path / "killed"))
    expected = curate(config, undisturbed, "k")
    rng, num_kills = random.Random(4), 0

    def work():
        fuse = Fuse(rng.randint(1, 40))
        for module, name in ((reading, "read_sample"), (pipeline, "write_rejections"), (journal, "write_atomically")):
            setattr(module, name, fuse.wrap(getattr(module, name)))
        for owner, name in ((shards, "write_table"), (ShardWriter, "add"), (Store, "publish"), (Store, "find")):
            setattr(owner, name, fuse.wrap(getattr(owner, name)))
        curate(config, killed, "k")

    while num_kills < 80 and is_killed(work):
        num_kills += 1
        rng.random()
    assert 3 <= num_kills < 80
    assert killed.find(DatasetManifest, "k").digest == expected.digest
    assert content(killed, "k") == content(undisturbed, "k")


class Killed(BaseException):
    """Stands for a kill at a known point."""


@pytest.mark.parametrize("stop_after", [1, 8, 9, 13, 19])
def test_finished_shards_are_kept_and_damaged_ones_redone(handover, tmp_path, configure, monkeypatch, stop_after):
    config = configure(handover.add_pictures(20).coco(), samples_per_shard=5)
    expected = curate(config, Store(str(tmp_path / "undisturbed")), "k")
    store, read, seen = Store(str(tmp_path / "store")), reading.read_sample, []

    def interrupted(listed, config):
        seen.append(listed.filename)
        if len(seen) > stop_after:
            raise Killed
        return read(listed, config)

    monkeypatch.setattr(pipeline, "NUM_READERS", 1)
    monkeypatch.setattr(reading, "read_sample", interrupted)
    with pytest.raises(Killed):
        curate(config, store, "k")
    finished = sorted((Path(store.uri) / ".work/curate/k/output").glob("shard-*.tar"))
    if len(finished) > 1:
        finished[1].write_bytes(b"damaged")
    done_again = []
    monkeypatch.setattr(reading, "read_sample", lambda *args: done_again.append(args[0].filename) or read(*args))
    assert curate(config, store, "k").digest == expected.digest
    assert len(done_again) == 20 - 5 * min(len(finished), 1)


@pytest.mark.skipif(not COCO.is_dir(), reason="the COCO sample is not beside the repository")
def test_a_sample_of_coco(store, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[4])
    root = os.path.relpath(COCO)
    source = CocoSource(annotations_uri=f"{root}/annotations/captions_train2017.json", images_uri=f"{root}/train2017")
    config = CurationConfig(name="coco", sources=(source,), samples_per_shard=32)
    manifest = curate(config, store, "k")
    assert curate(config, Store(str(tmp_path / "again")), "k").digest == manifest.digest
    table = json.loads((COCO / "annotations/captions_train2017.json").read_bytes())
    assert manifest.num_seen == manifest.num_samples == len(table["images"]) == 80
    assert manifest.num_captions == len(table["annotations"]) - counts(manifest).get("caption_repeated", 0)
    assert (manifest.num_shards, set(counts(manifest)) - {"caption_repeated"}) == (3, set())
    row = rows_of(manifest)[0]
    assert Image.open(COCO / "train2017" / row.file_name).size == (row.width_px, row.height_px)


def test_mended_captions_are_counted_and_listed(handover, store, configure, make_picture):
    handover.add("a.png", ["fish &amp; chips", "a bus"], make_picture(1))
    handover.add("b.png", ["\ufeffa horse", "a cafÃ© &lt;b&gt;here", "nan"], make_picture(2))
    manifest = curate(configure(handover.coco()), store, "k")
    assert [caption for row in rows_of(manifest) for caption in row.captions] == [
        "fish & chips",
        "a bus",
        "a horse",
        "a café here",
    ]
    assert {entry.reason: entry.count for entry in manifest.repaired} == {
        "repaired_html": 2,
        "repaired_invisible": 1,
        "repaired_mojibake": 1,
    }
    assert counts(manifest) == {"caption_placeholder": 1}
    assert "2 repaired_html" in dataset_figures(manifest)
    listed = pq.read_table(Path(manifest.uri) / "repaired.parquet").to_pylist()
    assert [(row["file_name"], row["caption_index"]) for row in listed] == [
        ("a.png", 0),
        ("b.png", 0),
        *[("b.png", 1)] * 2,
    ]


def test_texts_of_many_images_are_left_out_of_all_of_them(handover, store, configure, make_picture):
    for number in range(3):
        handover.add(f"{number}.png", ["click to enlarge", f"picture {number}"], make_picture(number))
    config = configure(handover.coco(), captions={"max_images_per_text": 2})
    manifest = curate(config, store, "k")
    assert [row.captions for row in rows_of(manifest)] == [[f"picture {number}"] for number in range(3)]
    assert counts(manifest) == {"caption_on_many_images": 3}
