"""A refresh is curating from nothing, byte for byte, but for what it reads and writes."""

import hashlib
import io
import os
import random
import weakref
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softalign.artifacts import DatasetManifest
from softalign.config import CocoSource, CurationConfig, TableSource
from softalign.config.captions import CaptionFilterConfig
from softalign.data.curation import journal, pipeline, reading, reuse, table
from softalign.data.curation.changes import CaptionEdit, changed_listing, list_samples_of, read_edits, to_lines
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.pipeline import curate
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.retrying import replaced
from softalign.data.curation.reuse import Beside
from softalign.data.curation.samples import HeldImage, ListedSample, Sample
from softalign.data.curation.shards import read_index
from softalign.data.curation.tars import ShardWriter
from softalign.errors import DataError
from softalign.store.store import Store
from softalign.store.traffic import traffic
from tests.killing import Fuse, is_killed
from tests.unit.data.curation.conftest import picture
from tests.unit.data.curation.test_merging import table_of
from tests.unit.data.curation.test_pipeline import COCO, content, rows_of


def edit(name, action, before="", caption="", source="0-coco"):
    return CaptionEdit(source=source, file_name=name, action=action, before=before, caption=caption)


@pytest.fixture
def many(handover, make_picture):
    """Return a handover with duplicates, failures and filtered images among the others."""
    handover.add_pictures(30)
    for number in (3, 11, 20):
        handover.add(
            f"copy-{number}.png", [f"{number} again"], data=(handover.images / f"{number:03d}.png").read_bytes()
        )
    handover.add("near.png", ["nearly the fifth"], make_picture(5), compress_level=1)
    handover.add("small.png", ["a small one"], make_picture(50, 20, 20))
    handover.add("text.png", ["no image"], data=b"hello")
    handover.add("gone.png", ["gone"])
    handover.add("mute.png", [], make_picture(53))
    handover.add("../outside.png", ["outside"])
    handover.add_pictures(40, start=60)
    make_picture(200).save(handover.images / "new.png")
    return handover


@pytest.fixture
def refresh(store, tmp_path, many, configure):
    """Return a function that refreshes the handover, and curates the same from nothing in another store."""
    config = configure(many.coco(), samples_per_shard=8)
    curate(config, store, "parent")

    def both(edits, key="child"):
        path = tmp_path / f"{key}.jsonl"
        path.write_bytes(to_lines(edits))
        changed = config.model_copy(update={"caption_changes": (str(path),)})
        reads = []
        inner = ImageFolder.read
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                ImageFolder, "read", lambda folder, name, *rest: reads.append(name) or inner(folder, name, *rest)
            )
            child = curate(changed, store, key, parent_key="parent", beside=Beside("parent"))
        scratch = curate(changed, Store(str(tmp_path / f"scratch-{key}")), key, parent_key="parent")
        assert child.digest == scratch.digest
        assert content(store, key) == content(Store(str(tmp_path / f"scratch-{key}")), key)
        return child, sorted(reads)

    return both


ALWAYS = ["gone.png"]
"""Looked for each time: it may have come."""


def test_only_touched_shards_are_written_and_no_kept_image_is_read(refresh, store):
    child, reads = refresh([edit("001.png", "change", "picture number 1", "in other words")])
    assert reads == ALWAYS and child.parent_key == "parent"
    before, after = (Path(store.prefix("curate", key)) for key in ("parent", "child"))
    shared = [path.name for path in sorted(after.glob("shard-*")) if os.path.samefile(path, before / path.name)]
    written = [path.name for path in sorted(after.glob("shard-*")) if path.name not in shared]
    assert written == ["shard-000000.parquet", "shard-000000.tar"] and len(shared) == 2 * (child.num_shards - 1)
    assert read_index(after / "shard-000000.parquet")[1].captions == ["in other words", "another view of 1"]


@pytest.mark.parametrize(
    ("edits", "reads"),
    [
        ([edit("003.png", "remove")], ["copy-11.png", "copy-20.png", "copy-3.png", "near.png"]),
        ([edit("099.png", "remove")], []),
        ([edit("mute.png", "add", caption="no more mute")], ["mute.png"]),
        ([edit("new.png", "add", caption="a new one"), edit("new.png", "add", caption="said twice")], ["new.png"]),
        ([edit("gone.png", "add", caption="still gone"), edit("small.png", "remove", "a small one")], []),
        ([edit("text.png", "remove"), edit("copy-3.png", "change", "3 again", "once more")], []),
        ([edit("002.png", "change", "picture number 2", "x"), edit("002.png", "remove", "another view of 2")], None),
    ],
)
def test_whatever_changes_it_is_as_from_nothing(refresh, edits, reads):
    _, done = refresh(edits)
    assert reads is None or sorted(set(done) - set(ALWAYS)) == reads


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_are_as_from_nothing(refresh, many, seed):
    rng, edits = random.Random(seed), []
    for name, captions in rng.sample([row for row in many.rows if row[0] != "../outside.png"], 25):
        if not captions or rng.random() < 0.3:
            edits.append(edit(name, "add", caption=f"added to {name}"))
        elif rng.random() < 0.5:
            edits.append(edit(name, "change", captions[0], rng.choice(["", f"changed in {name}", "?"]) or "no"))
        else:
            edits.append(edit(name, "remove", rng.choice(["", captions[-1]])))
    refresh(edits)


def test_refreshes_follow_one_another(store, tmp_path, many, configure):
    config = configure(many.coco(), samples_per_shard=8)
    curate(config, store, "0")
    for number, change in enumerate([edit("001.png", "add", caption="one"), edit("001.png", "change", "one", "two")]):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(to_lines([change]))
        config = config.model_copy(update={"caption_changes": (*config.caption_changes, str(path))})
        last = curate(config, store, str(number + 1), parent_key=str(number), beside=Beside(str(number)))
    assert last.digest == curate(config, Store(str(tmp_path / "scratch")), "2", parent_key="1").digest
    assert read_index(Path(last.uri) / "shard-000000.parquet")[1].captions[-1] == "two"


def test_killed_at_random_points_ends_with_the_same_bytes(store, tmp_path, many, configure):
    config = configure(many.coco(), samples_per_shard=4)
    curate(config, store, "parent")
    path = tmp_path / "changes.jsonl"
    path.write_bytes(to_lines([edit("003.png", "remove"), edit("070.png", "add", caption="one more")]))
    config = config.model_copy(update={"caption_changes": (str(path),)})
    expected = curate(config, Store(str(tmp_path / "undisturbed")), "k", parent_key="parent")
    rng, num_kills = random.Random(5), 0

    def work():
        fuse = Fuse(rng.randint(1, 25))
        with pytest.MonkeyPatch.context() as patched:
            for owner, name in (
                (pipeline, "write_rejections"),
                (journal, "write_atomically"),
                (reuse.EarlierVersion, "link"),
                (ShardWriter, "add"),
                (Store, "publish"),
            ):
                patched.setattr(owner, name, fuse.wrap(getattr(owner, name)))
            curate(config, store, "k", parent_key="parent", beside=Beside("parent"))

    while num_kills < 60 and is_killed(work):
        num_kills += 1
        rng.random()
    assert 2 <= num_kills < 60
    assert store.find(DatasetManifest, "k").digest == expected.digest


def test_what_is_shared_is_not_counted_as_written(store, tmp_path, many, configure):
    config = configure(many.coco(), samples_per_shard=8)
    before = traffic().written_bytes
    parent = curate(config, store, "parent")
    first = traffic().written_bytes - before
    path = tmp_path / "changes.jsonl"
    path.write_bytes(to_lines([edit("001.png", "add", caption="one more")]))
    curate(config.model_copy(update={"caption_changes": (str(path),)}), store, "child", beside=Beside("parent"))
    assert 0 < traffic().written_bytes - before - first < first / 4 and parent.parent_key == ""


def test_another_share_of_held_out_images_takes_no_shard_over(store, tmp_path, many, configure):
    curate(configure(many.coco(), samples_per_shard=8), store, "parent")
    other = configure(many.coco(), samples_per_shard=8, val_share=0.7)
    beside = curate(other, store, "child", beside=Beside("parent"))
    assert beside.digest == curate(other, Store(str(tmp_path / "nothing")), "child").digest


def test_a_damaged_shard_of_the_parent_is_not_taken_over(store, tmp_path, many, configure):
    config = configure(many.coco(), samples_per_shard=8)
    parent = curate(config, store, "parent")
    path = tmp_path / "changes.jsonl"
    path.write_bytes(to_lines([edit("001.png", "add", caption="one more")]))
    with (Path(parent.uri) / "shard-000004.tar").open("r+b") as tar:
        tar.write(b"damaged")
    changed = config.model_copy(update={"caption_changes": (str(path),)})
    child = curate(changed, store, "child", beside=Beside("parent"))
    assert child.digest == curate(changed, Store(str(tmp_path / "scratch")), "child").digest


@pytest.mark.skipif(not COCO.is_dir(), reason="the COCO sample is not beside the repository")
def test_a_sample_of_coco_with_40_changed_10_added_and_5_removed_captions(store, tmp_path):
    table = COCO / "annotations/captions_train2017.json"
    source = CocoSource(annotations_uri=str(table), images_uri=str(COCO / "train2017"))
    config = CurationConfig(name="coco", sources=(source,), samples_per_shard=16)
    parent = curate(config, store, "parent")
    rows = [row for path in sorted(Path(parent.uri).glob("shard-*.parquet")) for row in read_index(path)]
    edits = [edit(row.file_name, "change", row.captions[0], f"{row.captions[0]} again") for row in rows[:40]]
    edits += [edit(row.file_name, "add", caption="one more") for row in rows[20:30]]
    edits += [edit(row.file_name, "remove", row.captions[-1]) for row in rows[40:45]]
    path = tmp_path / "changes.jsonl"
    path.write_bytes(to_lines(edits))
    changed = config.model_copy(update={"caption_changes": (str(path),)})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ImageFolder, "read", lambda *_: pytest.fail("an image was read"))
        child = curate(changed, store, "child", parent_key="parent", beside=Beside("parent"))
    assert child.digest == curate(changed, Store(str(tmp_path / "nothing")), "child", parent_key="parent").digest
    assert child.num_captions == parent.num_captions + 10 - 5


def listing(*names):
    images = ImageFolder("images")
    return [ListedSample(source, name, images, ("one", " two  words")) for source, name in names]


def test_edits_keep_places_and_new_images_end_their_source():
    listed = listing(("0-a", "x"), ("0-a", "y"), ("1-b", "x"))
    edits = [
        edit("x", "change", "two words", "three", "0-a"),
        edit("x", "add", "", "four", "0-a"),
        edit("x", "remove", "one", "", "0-a"),
        edit("z", "add", "", "new", "0-a"),
        edit("x", "remove", source="1-b"),
    ]
    got = [(one.source, one.filename, one.captions) for one in changed_listing(listed, edits)]
    assert got == [
        ("0-a", "x", ("three", "four")),
        ("0-a", "y", ("one", " two  words")),
        ("0-a", "z", ("new",)),
        ("1-b", "x", ()),
    ]


def test_a_caption_that_is_said_twice_changes_as_one():
    (listed,) = listing(("0-a", "x"))
    listed = replace(listed, captions=("other", "twice", " twice ", "last"))
    (changed,) = changed_listing([listed], [edit("x", "change", "twice", "once", "0-a")])
    assert changed.captions == ("other", "once", "last")


def test_all_that_cannot_be_applied_is_said_at_once():
    edits = [
        edit("x", "change", "nowhere", "b", "0-a"),
        edit("x", "add", "", "one", "0-a"),
        edit("x", "change", "", "b", "0-a"),
        edit("x", "add", "", " ", "0-a"),
        edit("nobody", "remove", source="0-a", before="c"),
        edit("x", "add", "", "b", "7-q"),
    ]
    with pytest.raises(DataError) as caught:
        list(changed_listing(listing(("0-a", "x")), edits))
    said = str(caught.value)
    assert "6 caption changes cannot be applied" in said
    for text in ("'nowhere' to change", "'one' is there already", "not said", "an empty caption", "nobody", "7-q"):
        assert text in said


def test_a_file_of_edits_is_read_back_and_a_damaged_one_named(tmp_path):
    path, edits = tmp_path / "a.jsonl", (edit("a", "add", caption="é\u2028b"), edit("b", "remove"))
    path.write_bytes(to_lines(edits))
    assert read_edits([str(path)]) == edits
    path.write_bytes(b'{"action": "burn"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:1"):
        read_edits([str(path)])


def test_nothing_is_published_when_changes_do_not_fit(store, tmp_path, many, configure):
    config = configure(many.coco())
    path = tmp_path / "changes.jsonl"
    path.write_bytes(to_lines([edit("001.png", "remove", "not said of it")]))
    with pytest.raises(DataError, match="cannot be applied"):
        curate(config.model_copy(update={"caption_changes": (str(path),)}), store, "child", beside=Beside("parent"))
    assert store.find(DatasetManifest, "child") is None


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_of_a_table_that_holds_images_few_are_held_at_once(tmp_path, store, configure, make_picture, monkeypatch):
    rows = [{"image": png(make_picture(number)), "caption": f"picture number {number}"} for number in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet", row_group_size=4)
    source = TableSource(table_uri=str(tmp_path / "table.parquet"), image_column="image")
    config = configure(source, samples_per_shard=8)
    (first, *_) = list_samples_of(config, tmp_path / "listed")
    curate(config, store, "parent")
    path = tmp_path / "changes.jsonl"
    path.write_bytes(to_lines([edit(first.filename, "change", "picture number 0", "in other words", "0-table")]))
    changed = config.model_copy(update={"caption_changes": (str(path),)})
    held, most = weakref.WeakSet(), []
    made = HeldImage

    class Counted(made):
        __slots__ = ("__weakref__",)

        def __init__(self, data):
            super().__init__(data)
            held.add(self)
            most.append(sum(bool(one.data) for one in held))

    monkeypatch.setattr(table, "HeldImage", Counted)
    child = curate(changed, store, "child", parent_key="parent", beside=Beside("parent"))
    monkeypatch.undo()
    assert len(most) == 2 * len(rows) and max(most) < 10
    assert child.digest == curate(changed, Store(str(tmp_path / "scratch")), "child", parent_key="parent").digest


def test_the_extension_is_that_of_the_first_image_also_of_another_first_one(
    tmp_path, store, handover, configure, make_picture
):
    handover.add("000.png", ["the only PNG file"], make_picture(0))
    for number in range(1, 7):
        handover.add(f"{number:03d}.jpg", [f"JPEG number {number}"], make_picture(number), quality=95)
    config = configure(handover.coco())
    assert {row.extension for row in rows_of(curate(config, store, "parent"))} == {"png"}
    path = tmp_path / "changes.jsonl"
    path.write_bytes(to_lines([edit("000.png", "remove")]))
    changed = config.model_copy(update={"caption_changes": (str(path),)})
    child = curate(changed, store, "child", parent_key="parent", beside=Beside("parent"))
    assert {row.extension for row in rows_of(child)} == {"jpg"}
    assert child.digest == curate(changed, Store(str(tmp_path / "scratch")), "child", parent_key="parent").digest


def test_of_a_path_listed_twice_with_other_pictures_nothing_is_taken_for_the_other(
    tmp_path, store, configure, make_picture
):
    def listed(caption):
        rows = [("a.png", 1, ["the first"]), ("a.png", 2, caption), ("b.png", 3, ["on many"]), ("c.png", 4, ["fine"])]
        return table_of(tmp_path, [(path, png(make_picture(seed)), captions) for path, seed, captions in rows])

    config = configure(listed(["on many"]), captions=CaptionFilterConfig(max_images_per_text=1))
    assert curate(config, store, "parent").num_samples == 2
    path = tmp_path / "changes.jsonl"
    path.write_bytes(to_lines([edit("b.png", "change", "on many", "on one", "0-table")]))
    changed = config.model_copy(update={"caption_changes": (str(path),)})
    child = curate(changed, store, "child", parent_key="parent", beside=Beside("parent"))
    scratch = curate(changed, Store(str(tmp_path / "scratch")), "child", parent_key="parent")
    assert child.num_samples == 4 and child.digest == scratch.digest
    assert replaced(changed, OpenedDataset(child, store)) == {}


@pytest.mark.parametrize("captions_in_tars", [True, False])
def test_one_image_more_decodes_that_alone_also_where_images_are_saved_anew(
    tmp_path, store, handover, configure, monkeypatch, captions_in_tars
):
    handover.add_pictures(6)
    layout = {"image_format": "jpg", "captions_in_tars": captions_in_tars}
    parent = curate(configure(handover.coco()).model_copy(update=layout), store, "parent")
    digests = [hashlib.sha256((handover.images / row.file_name).read_bytes()).hexdigest() for row in rows_of(parent)]
    assert [row.source_digest for row in rows_of(parent)] == digests
    handover.add_pictures(1, start=9)
    handover.add("000.png", [], picture(0), compress_level=1)  # the same picture in other bytes
    handover.rows.pop()
    config, decoded, inspect = configure(handover.coco()).model_copy(update=layout), [], reading.inspect_image
    assert list(replaced(config, OpenedDataset(parent, store))) == ["0-coco/000.png"]
    monkeypatch.setattr(reading, "inspect_image", lambda *args, **how: decoded.append(args) or inspect(*args, **how))
    child = curate(config, store, "child", beside=Beside("parent", is_compared=True))
    assert len(decoded) == 2
    assert child.digest == curate(config, Store(str(tmp_path / "scratch")), "child").digest
    assert replaced(config, OpenedDataset(child, store)) == {}


def test_a_version_that_does_not_say_what_images_were_saved_anew_from_is_not_gone_by(
    tmp_path, store, handover, configure, monkeypatch
):
    config = configure(handover.add_pictures(6).coco()).model_copy(update={"image_format": "jpg"})
    with monkeypatch.context() as patched:  # as versions before were
        patched.setattr(reading, "Sample", lambda **fields: Sample(**fields | {"source_digest": ""}))
        old = curate(config, store, "old")
    assert "source_digest" not in pq.read_schema(Path(old.uri) / "shard-000000.parquet").names
    assert replaced(config, OpenedDataset(old, store)) == {}
    child = curate(config, store, "child", beside=Beside("old"))
    assert child.digest == curate(config, Store(str(tmp_path / "scratch")), "child").digest


def test_a_near_copy_under_the_name_of_a_kept_image_is_no_replacement(tmp_path, store, configure, make_picture):
    buffer = io.BytesIO()
    make_picture(1).save(buffer, "PNG", compress_level=1)
    rows = [("a.png", png(make_picture(1)), ["one"]), ("a.png", buffer.getvalue(), ["nearly it"])]
    config = configure(table_of(tmp_path, rows))
    dataset = curate(config, store, "k")
    assert dataset.num_samples == 1 and replaced(config, OpenedDataset(dataset, store)) == {}
