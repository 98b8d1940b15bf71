"""What failed is tried again, it alone; what changed at the sources does not redo what did not."""

import json
from pathlib import Path

import pytest
import yaml

from softalign.artifacts import SourceWeight
from softalign.cli.app import app
from softalign.config import Recipe
from softalign.data.curation import reading
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.pipeline import curate
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.shards import read_index
from softalign.errors import StorageUnavailableError
from softalign.stages.chain import run_until
from softalign.stages.plan import plan
from softalign.stages.rechecking import recheck
from softalign.stages.refresh import prepare_refresh, published_dataset
from softalign.stages.renewing import tries_of
from softalign.store.files import list_files
from softalign.store.store import Store
from tests.unit.data.curation.conftest import Handover, picture


class Place:
    """A data team's folder with files that are refused, and the store that it is curated into."""

    def __init__(self, root, monkeypatch):
        self.root, self.store = root, Store(str(root / "store"))
        self.handover = Handover(root / "handover").add_pictures(24)
        self.refused, self.read, self.decoded = set(), [], []
        fetch, inspect = ImageFolder._fetch, reading.inspect_image
        monkeypatch.setattr(ImageFolder, "_fetch", lambda folder, name, *rest: self._fetch(fetch, folder, name, *rest))

        def inspected(*asked, **how):
            self.decoded.append(asked[0])
            return inspect(*asked, **how)

        monkeypatch.setattr(reading, "inspect_image", inspected)

    def _fetch(self, fetch, folder, name, *rest):
        self.read.append(name)
        if name in self.refused:
            raise StorageUnavailableError("refused") from PermissionError(13, "no", name)
        return fetch(folder, name, *rest)

    def recipe(self, **runtime):
        curation = {"name": "tiny", "sources": [self.handover.coco().model_dump()], "samples_per_shard": 8}
        return Recipe.model_validate(
            {"name": "tiny", "curation": curation, "register": {"name": "tiny"}, "runtime": runtime}
        )

    def curate(self, **runtime):
        """Curate, and return the result and the names that were read."""
        self.read.clear(), self.decoded.clear()
        recipe = self.recipe(**runtime)
        result = run_until("curate", recipe, self.store, lambda line: None, is_through=True).results[0]
        return result, set(self.read)

    def from_nothing(self, dataset):
        """Return the digest of the same dataset curated in a store that has nothing."""
        store = Store(str(self.root / f"nothing-{dataset.stage_key[:8]}"))
        return curate(self.recipe().curation, store, dataset.stage_key).digest

    def shared(self, before, after):
        """Return the names of shards that both have as one file."""
        pairs = ((Path(after.uri) / path.name, path) for path in sorted(Path(before.uri).glob("shard-*.tar")))
        return [path.name for path, other in pairs if path.exists() and path.samefile(other)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    return Place(tmp_path, monkeypatch)


def test_what_failed_is_tried_again_and_it_alone(place):
    place.refused = {"003.png", "020.png"}
    first, _ = place.curate()
    assert [(one.reason, one.count) for one in first.record.rejected] == [("access_refused", 2)]
    again, read = place.curate()
    assert again.is_reused and again.record == first.record and tries_of(first.record, place.store) == 1
    assert "003.png" in read and len(place.decoded) == 0

    place.refused = {"003.png"}
    mended, _ = place.curate()
    assert not mended.is_reused and mended.record.num_samples == 23
    assert len(place.decoded) == 2, "once to see whether it passes, once to keep it"
    assert mended.record.digest == place.from_nothing(mended.record)
    assert place.shared(first.record, mended.record) == ["shard-000000.tar", "shard-000001.tar"]
    assert published_dataset(place.recipe(), place.store) == mended.record
    assert plan(place.recipe(), place.store)[0].uri == mended.record.uri
    assert tries_of(mended.record, place.store) == 2, "what is left was tried as often"

    place.refused = set()
    last, _ = place.curate()
    assert last.record.num_samples == 24 and last.record.rejected == ()
    assert last.record.digest == place.from_nothing(last.record)
    reused, read = place.curate()
    assert reused.is_reused and reused.record == last.record and read == set()


def test_it_is_tried_no_oftener_than_asked(place):
    place.refused = {"003.png"}
    place.curate()
    for _ in range(2):
        assert "003.png" in place.curate(image_tries=2)[1]
    assert place.curate(image_tries=2)[1] == set()
    place.refused = set()
    assert place.curate(image_tries=2)[0].record.num_samples == 23
    assert place.curate(image_tries=3)[0].record.num_samples == 24


def test_a_source_that_is_away_takes_nothing_published_away(place, monkeypatch):
    place.refused = {"003.png"}
    first, _ = place.curate()

    def away(*_):
        raise StorageUnavailableError("away")

    monkeypatch.setattr("softalign.data.curation.retrying.list_samples_of", away)
    assert place.curate()[0].record == first.record


def test_a_killed_mending_is_done_the_next_time(place):
    place.refused = {"003.png"}
    place.curate()
    place.refused = set()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("softalign.stages.renewing.create_file", stop)
        with pytest.raises(KeyboardInterrupt):
            place.curate()
    assert place.curate()[0].record.num_samples == 24
    assert published_dataset(place.recipe(), place.store).num_samples == 24


def test_one_image_more_or_another_table_redoes_no_finished_shard(place):
    first, _ = place.curate()
    place.handover.add("new.png", ["a new one"], picture(99))
    place.handover.rows[20][1][0] = "in other words"
    second, _ = place.curate()
    assert len(place.decoded) == 1
    assert place.shared(first.record, second.record) == ["shard-000000.tar", "shard-000001.tar"]
    assert second.record.digest == place.from_nothing(second.record)


def test_other_weights_read_no_image(place):
    first, _ = place.curate()
    plain = place.handover.coco
    place.handover.coco = lambda: plain().model_copy(update={"weight": 2.0})
    weighted, read = place.curate()
    assert weighted.record.weights == (SourceWeight(source="0-coco", weight=2.0),) and not weighted.is_reused
    assert (read, place.decoded) == (set(), [])
    assert weighted.record.files_digest == first.record.files_digest
    place.handover.coco = lambda: plain().model_copy(update={"weight": 1.0})
    assert place.curate()[0].record == first.record, "a weight of 1 is none"


def test_an_image_that_changed_under_the_same_name_and_size_is_noticed_when_anything_else_changes(place):
    first, _ = place.curate()
    path = place.handover.images / "001.png"
    content = bytearray(path.read_bytes())
    picture(77).save(place.handover.images / "other.png")
    path.write_bytes((place.handover.images / "other.png").read_bytes().ljust(len(content), b"\0")[: len(content)])
    second, _ = place.curate()
    assert not second.is_reused and len(place.decoded) == 1
    assert second.record.digest == place.from_nothing(second.record) != first.record.digest


def test_a_recheck_notices_an_image_that_changed_under_the_same_name_and_size(place, capsys):
    first, _ = place.curate()
    recipe = place.root / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(place.recipe().model_dump(mode="json", by_alias=True)))
    command = ["data", "recheck", str(recipe), "--store", place.store.uri, "--json"]
    app(command, standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["is_changed"] is False
    path = place.handover.images / "009.png"
    size, kept = path.stat().st_size, path.read_bytes()
    picture(77).save(path)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    assert place.curate()[0].is_reused, "names and sizes are the same"
    place.decoded.clear()
    app(command, standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert said["is_changed"] and len(place.decoded) == 1
    newer, _ = place.curate()
    assert newer.is_reused and newer.record.digest == said["digest"] == place.from_nothing(newer.record)
    assert place.shared(first.record, newer.record) == ["shard-000000.tar", "shard-000002.tar"]
    path.write_bytes(kept)
    app(command, standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["files_digest"] == first.record.files_digest


def test_a_recheck_of_a_refreshed_dataset_notices_it_too_and_mending_keeps_it(place):
    place.refused = {"003.png"}
    place.curate()
    table = place.root / "changes.jsonl"
    table.write_text(json.dumps({"action": "add", "file_name": "001.png", "caption": "one more"}))
    asked = prepare_refresh(published_dataset(place.recipe(), place.store), str(table), place.store)
    refreshed = run_until("curate", asked.recipe, place.store, lambda line: None, is_through=True).results[0].record
    path = place.handover.images / "009.png"
    size = path.stat().st_size
    picture(77).save(path)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    made = recheck(asked.recipe, place.store, lambda line: None)
    assert made.record.files_digest != refreshed.files_digest and made.record.num_captions == refreshed.num_captions
    assert published_dataset(asked.recipe, place.store) == made.record
    assert recheck(asked.recipe, place.store, lambda line: None) is None
    place.refused = set()
    mended = run_until("curate", asked.recipe, place.store, lambda line: None, is_through=True).results[0].record
    digests = [
        {one.row.file_name: one.row.image_digest for one in OpenedDataset(record, place.store).samples()}
        for record in (refreshed, made.record, mended)
    ]
    assert digests[0]["009.png"] != digests[1]["009.png"] == digests[2]["009.png"] and "003.png" in digests[2]


def test_a_recheck_notices_an_image_that_was_left_out_and_is_sound_now(place):
    path, copy = place.handover.images / "009.png", place.handover.images / "008.png"
    sound, twin = path.read_bytes(), (place.handover.images / "001.png").read_bytes()
    path.write_bytes(bytes(len(sound)))
    copy.write_bytes(twin)
    before, _ = place.curate()
    assert recheck(place.recipe(), place.store, lambda line: None) is None
    path.write_bytes(sound)
    made = recheck(place.recipe(), place.store, lambda line: None)
    assert made is not None and made.record.num_samples == before.record.num_samples + 1
    picture(77).save(copy)
    copy.write_bytes(copy.read_bytes().ljust(len(twin), b"\0")[: len(twin)])
    made = recheck(place.recipe(), place.store, lambda line: None)
    assert made is not None and made.record.num_samples == before.record.num_samples + 2
    assert recheck(place.recipe(), place.store, lambda line: None) is None


def test_a_recheck_of_images_that_are_saved_anew_compares_them_so(place):
    recipe = place.recipe()
    recipe = recipe.model_copy(update={"curation": recipe.curation.model_copy(update={"image_format": "jpg"})})
    run_until("curate", recipe, place.store, lambda line: None, is_through=True)
    assert recheck(recipe, place.store, lambda line: None) is None
    path = place.handover.images / "009.png"
    size = path.stat().st_size
    picture(77).save(path)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    assert recheck(recipe, place.store, lambda line: None) is not None
    assert recheck(recipe, place.store, lambda line: None) is None


def test_copying_the_folder_decodes_nothing(place):
    first, _ = place.curate()
    for path in place.handover.images.iterdir():
        path.touch()
    assert place.curate()[0].is_reused and place.read == []
    place.handover.images.rename(place.root / "moved")
    place.handover.root = place.root / "elsewhere"
    place.handover.root.mkdir()
    (place.root / "moved").rename(place.handover.images)
    second, _ = place.curate()
    rows = [read_index(Path(one.record.uri) / "shard-000001.parquet") for one in (first, second)]
    assert rows[0] == rows[1] and first.record.files_digest == second.record.files_digest


def test_a_share_of_failures_stops_the_run_and_finished_shards_are_kept(place):
    place.refused = {f"{number:03d}.png" for number in range(12, 24)}
    with pytest.raises(StorageUnavailableError, match=r"at most 25.0% of 24 images.*\n.*access_refused: 7"):
        place.curate(max_failed_share=0.25)
    assert not list_files(Path(place.store.uri) / "curate")
    place.refused = {"012.png"}
    result, _ = place.curate(max_failed_share=0.25)
    assert result.record.num_samples == 23
    assert len(place.decoded) == 15, "the first shard of eight was kept"
    assert result.record.digest == place.from_nothing(result.record)
