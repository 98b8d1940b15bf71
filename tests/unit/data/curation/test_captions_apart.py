"""Captions in the indexes alone: other captions leave every tar as it is, and all else is as with captions in tars."""

import json
import os
import random
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from softalign.config import Recipe
from softalign.data.curation import merging
from softalign.data.curation.changes import CaptionEdit, to_lines
from softalign.data.curation.merging import MergedShards
from softalign.data.curation.pipeline import curate
from softalign.data.curation.reuse import Beside
from softalign.data.curation.shards import read_index
from softalign.data.curation.tars import CAPTION_FIELDS
from softalign.stages.requests import StageInputs, curate_request
from softalign.store.store import Store
from softalign.store.traffic import traffic
from tests.killing import Fuse, is_killed
from tests.unit.data.curation.test_pipeline import content, rows_of


@pytest.fixture
def repeated(handover):
    """Return a handover with copies near, far and at the end."""
    handover.add_pictures(14)
    for number, name in ((0, "near"), (3, "far"), (13, "last")):
        data = (handover.images / f"{number:03d}.png").read_bytes()
        handover.add(f"{name}.png", [f"the {name} copy", f"picture number {number}"], data=data)
    return handover.add_pictures(6, start=20)


@pytest.fixture
def config(repeated, configure):
    return configure(repeated.coco()).model_copy(update={"captions_in_tars": False})


def changed(config, tmp_path, *edits, name="changes"):
    path = tmp_path / f"{name}.jsonl"
    path.write_bytes(to_lines(CaptionEdit(source="0-coco", **fields) for fields in edits))
    return config.model_copy(update={"caption_changes": (*config.caption_changes, str(path))})


def linked(store, *keys):
    one, other = (Path(store.prefix("curate", key)) for key in keys)
    names = sorted(path.name for path in one.glob("shard-*") if (other / path.name).exists())
    return [name for name in names if os.path.samefile(one / name, other / name)]


def members(manifest):
    for path in sorted(Path(manifest.uri).glob("*.tar")):
        with tarfile.open(path) as tar:
            yield from ((member.name, tar.extractfile(member).read()) for member in tar)


def test_the_two_layouts_differ_in_the_captions_alone(config, store):
    within = curate(config.model_copy(update={"captions_in_tars": True}), store, "within")
    apart = curate(config, store, "apart")
    assert [replace(row, offset_bytes=0) for row in rows_of(within)] == [
        replace(row, offset_bytes=0) for row in rows_of(apart)
    ]
    expected = {}
    for name, data in members(within):
        if name.endswith(".png"):
            expected[name] = data
        elif name.endswith(".json"):
            expected[name] = {key: value for key, value in json.loads(data).items() if key not in CAPTION_FIELDS}
    found = {name: json.loads(data) if name.endswith(".json") else data for name, data in members(apart)}
    assert found == expected
    assert (apart.num_samples, apart.num_captions, apart.num_merged_captions, apart.rejected) == (
        within.num_samples,
        within.num_captions,
        within.num_merged_captions,
        within.rejected,
    )
    for path in Path(apart.uri).glob("*.tar"):
        data = path.read_bytes()
        for row in read_index(path.with_suffix(".parquet")):
            assert data[row.offset_bytes :][: row.size_bytes] == found[f"{row.key}.png"]


def test_captions_changed_in_every_shard_rewrite_no_tar(config, store, tmp_path):
    parent = curate(config, store, "parent")
    names = [f"{number:03d}.png" for number in (0, 5, 9, 13, 23)]
    edits = [{"file_name": name, "action": "add", "caption": f"one more of {name}"} for name in names]
    after, before = changed(config, tmp_path, *edits), traffic().written_bytes
    child = curate(after, store, "child", parent_key="parent", beside=Beside("parent"))
    written = traffic().written_bytes - before
    assert linked(store, "parent", "child") == [f"shard-{index:06d}.tar" for index in range(parent.num_shards)]
    indexes = sum(path.stat().st_size for path in Path(child.uri).glob("shard-*.parquet"))
    assert written == indexes, "what is written is the indexes"
    scratch = Store(str(tmp_path / "scratch"))
    assert child.digest == curate(after, scratch, "child", parent_key="parent").digest
    assert content(store, "child") == content(scratch, "child")


def test_what_no_change_touches_is_linked_whole(config, store, tmp_path):
    curate(config, store, "parent")
    edit = {"file_name": "near.png", "action": "change", "before": "the near copy", "caption": "said otherwise"}
    after = changed(config, tmp_path, edit)
    child = curate(after, store, "child", parent_key="parent", beside=Beside("parent"))
    assert len(linked(store, "parent", "child")) == 2 * child.num_shards - 1, "of the copy's image the index alone"
    assert child.digest == curate(after, Store(str(tmp_path / "scratch")), "child", parent_key="parent").digest


@pytest.mark.parametrize("seed", range(2))
def test_random_changes_are_as_from_nothing(config, repeated, store, tmp_path, seed):
    curate(config, store, "0")
    rng, rows = random.Random(seed), dict(repeated.rows)
    for number in (1, 2):
        edits = []
        for name in rng.sample(sorted(rows), 7):
            action = rng.choice(["add", "change", "remove"]) if rows[name] else "add"
            before = rng.choice(rows[name]) if action != "add" else ""
            caption = f"{action} {number} in {name}" if action != "remove" else ""
            edits.append({"file_name": name, "action": action, "before": before, "caption": caption})
            rows[name] = [text for text in rows[name] if text != before] + ([caption] if caption else [])
        config = changed(config, tmp_path, *edits, name=str(number))
        parent, scratch = str(number - 1), Store(str(tmp_path / f"scratch-{number}"))
        child = curate(config, store, str(number), parent_key=parent, beside=Beside(parent))
        assert child.digest == curate(config, scratch, str(number), parent_key=parent).digest
        assert content(store, str(number)) == content(scratch, str(number))


def test_merging_killed_at_any_moment_writes_indexes_alone(config, tmp_path, monkeypatch):
    expected = curate(config, Store(str(tmp_path / "undisturbed")), "k")
    assert expected.num_merged_captions == 3
    monkeypatch.setattr(merging, "rewrite_shard", lambda *_: pytest.fail("a tar was written anew"))
    merge = MergedShards.merge
    for number in range(1, 40):
        store = Store(str(tmp_path / f"killed-{number}"))

        def merging_killed(*args, number=number):
            fuse = Fuse(number)
            merging.os.replace, merging.write_index = fuse.wrap(os.replace), fuse.wrap(merging.write_index)
            return merge(*args)

        def killed(store=store, merging_killed=merging_killed):
            MergedShards.merge = merging_killed
            curate(config, store, "k")

        if not is_killed(killed):
            break
        assert curate(config, store, "k").digest == expected.digest
    assert 10 < number < 39


def test_only_the_other_layout_is_part_of_the_request(config, store):
    def request(curation):
        recipe = {"name": "t", "curation": curation.model_dump(), "register": {"name": "t"}}
        return curate_request(StageInputs(Recipe.model_validate(recipe), store))

    within = request(config.model_copy(update={"captions_in_tars": True}))
    assert "captions_in_tars" not in within.config["curation"], "keys are as they were before it could be asked for"
    assert request(config).config["curation"]["captions_in_tars"] is False
