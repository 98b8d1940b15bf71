"""Exported tars: those of a dataset with captions in its tars, from any layout, whatever stops the writing."""

import json
import tarfile
from pathlib import Path

import fsspec
import pytest
import webdataset

from softalign.cli.app import app
from softalign.data import exporting
from softalign.data.curation.pipeline import curate
from softalign.data.exporting import Export, export_dataset
from softalign.errors import ConfigError
from softalign.store.store import Store
from tests.killing import Fuse, is_killed
from tests.unit.data.curation.conftest import Handover, configure  # noqa: F401  # a fixture
from tests.unit.data.curation.test_pipeline import rows_of


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def config(tmp_path, configure):  # noqa: F811
    handover = Handover(tmp_path / "handover").add_pictures(10)
    handover.add("copy.png", ["a copy"], data=(handover.images / "001.png").read_bytes())
    return configure(handover.coco()).model_copy(update={"captions_in_tars": False})


@pytest.fixture
def apart(config, store):
    return curate(config, store, "apart")


@pytest.fixture
def within(config, store):
    return curate(config.model_copy(update={"captions_in_tars": True}), store, "within")


@pytest.fixture
def expected(within):
    """Return the tars of the same dataset with captions in them."""
    return tars_of(Path(within.uri))


def tars_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def captions_of(rows):
    return [(row.key, row.captions[0], row.captions) for row in rows]


def test_tars_are_those_with_captions_in_them_whatever_the_layout(apart, within, expected, store, tmp_path):
    done = export_dataset(apart, str(tmp_path / "out"), store)
    assert tars_of(tmp_path / "out") == expected and done.num_written == done.num_shards == len(expected) == 3
    export_dataset(within, str(tmp_path / "other"), store)
    assert tars_of(tmp_path / "other") == expected
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", *expected]
    assert Export.model_validate_json((tmp_path / "out/export.json").read_bytes()).is_complete


def test_webdataset_and_tar_read_them(apart, store, tmp_path):
    export_dataset(apart, str(tmp_path / "out"), store)
    rows, tars = rows_of(apart), [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    found = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")
    assert [(one["__key__"], one["txt"], one["json"]["captions"]) for one in found] == captions_of(rows)
    read = []
    for path in tars:
        with tarfile.open(path) as tar:
            names = [name for name in tar.getnames() if name.endswith(".json")]
            read += [json.load(tar.extractfile(name))["captions"] for name in names]
    assert read == [row.captions for row in rows]


@pytest.mark.parametrize("is_folder", [True, False])
def test_hugging_face_datasets_reads_them(apart, store, tmp_path, is_folder):
    datasets = pytest.importorskip("datasets")
    export_dataset(apart, str(tmp_path / "out"), store)
    rows, tars = rows_of(apart), [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    given, options = (str(tmp_path / "out"), {}) if is_folder else ("webdataset", {"data_files": tars})
    listed = datasets.load_dataset(given, split="train", cache_dir=str(tmp_path / "cache"), **options)
    assert [(one["__key__"], one["txt"], one["json"]["captions"]) for one in listed] == captions_of(rows)
    assert listed[0]["png"].size == (rows[0].width_px, rows[0].height_px)


def test_it_goes_on_after_a_kill_at_any_moment_and_writes_what_is_missing_or_cut(apart, expected, store, tmp_path):
    for number in range(1, 12):
        out = tmp_path / f"out-{number}"

        def killed(number=number, out=out):
            fuse = Fuse(number)
            exporting.overwrite_file = fuse.wrap(exporting.overwrite_file)
            exporting.ShardTar.close = fuse.wrap(exporting.ShardTar.close)
            exporting.note_written = fuse.wrap(exporting.note_written)
            export_dataset(apart, str(out), store)

        if not is_killed(killed):
            break
        export_dataset(apart, str(out), store)
        assert tars_of(out) == expected and len(list(out.iterdir())) == 4
    assert number == 9
    (out / "shard-000001.tar").write_bytes(expected["shard-000001.tar"][:-512])
    (out / "shard-000002.tar").unlink()
    assert export_dataset(apart, str(out), store).num_written == 2
    assert export_dataset(apart, str(out), store).num_written == 0
    assert tars_of(out) == expected


def test_a_place_with_anything_else_is_refused_and_left_as_it_is(apart, config, store, tmp_path):
    other = curate(config.model_copy(update={"name": "other"}), store, "other")
    export_dataset(other, str(tmp_path / "other"), store)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/export.json").write_text("{")
    for name, said in (("other", "an export of other"), ("mine", "taken"), ("file", "file"), ("damaged", "taken")):
        with pytest.raises(ConfigError, match=said):
            export_dataset(apart, str(tmp_path / name), store)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert Export.model_validate_json((tmp_path / "other/export.json").read_bytes()).dataset == "other"


def test_it_goes_to_any_filesystem(apart, expected, store):
    place = fsspec.filesystem("memory")
    try:
        assert export_dataset(apart, "memory://out/tars/", store).num_written == 3
        assert {name: place.cat_file(f"/out/tars/{name}") for name in expected} == expected
        place.rm_file("/out/tars/shard-000001.tar")
        assert export_dataset(apart, "memory://out/tars", store).num_written == 1
        place.pipe_file("/out/tars2/x", b"x")
        with pytest.raises(ConfigError, match="taken"):
            export_dataset(apart, "memory://out/tars2", store)
    finally:
        place.rm("/out", recursive=True)


def test_the_command_names_datasets_as_others_do(apart, store, tmp_path, capsys):
    words = ["data", "export", "test", "--to", str(tmp_path / "out"), "--store", store.uri]
    app([*words, "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert (said["num_written"], said["num_samples"], said["digest"]) == (3, 10, apart.digest)
    app(words, standalone_mode=False)
    assert capsys.readouterr().out.splitlines() == ["10 images in 3 tars, 0 of them written now", said["uri"]]
