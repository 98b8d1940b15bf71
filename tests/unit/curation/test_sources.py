"""Captions tables: what is read, and that every flaw is named."""

import fsspec
import pytest

from softalign.config import CocoSource, ParquetSource, ShapesSource
from softalign.curation.samples import ListedSample
from softalign.curation.sources import image_uri, list_samples, list_sources
from softalign.errors import DataError, MissingInputError


def listed(source, tmp_path):
    return list(list_samples(source, "0-test", tmp_path / "work"))


@pytest.mark.parametrize("table", ["coco", "parquet"])
def test_captions_are_grouped_by_image_in_the_tables_order(handover, tmp_path, table):
    handover.rows = [("b.png", ["one", "two"]), ("a.png", ["three"])]
    samples = listed(getattr(handover, table)(), tmp_path)
    assert [(s.file_name, s.captions) for s in samples] == [("b.png", ("one", "two")), ("a.png", ("three",))]
    assert {s.images_uri for s in samples} == {str(handover.images)}


def test_parquet_rows_of_an_image_need_not_be_adjacent(handover, tmp_path):
    source = handover.parquet(file_name=["a", "b", "a"], caption=["1", "2", "3"])
    assert [(s.file_name, s.captions) for s in listed(source, tmp_path)] == [("a", ("1", "3")), ("b", ("2",))]


def test_coco_images_without_captions_are_listed_to_be_rejected(handover, tmp_path):
    handover.rows = [("a.png", ["one"]), ("b.png", [])]
    assert [s.captions for s in listed(handover.coco(), tmp_path)] == [("one",), ()]


def test_other_column_names_are_configured(handover, tmp_path):
    source = handover.parquet(path=["a.png"], text=["hello"])
    source = source.model_copy(update={"image_column": "path", "caption_column": "text"})
    assert listed(source, tmp_path)[0].captions == ("hello",)


def test_relative_paths_are_of_the_working_folder(handover, tmp_path, monkeypatch):
    handover.rows = [("a.png", ["one"])]
    handover.coco()
    monkeypatch.chdir(tmp_path)
    source = CocoSource(annotations_uri="handover/captions.json", images_uri="handover/images")
    assert image_uri(listed(source, tmp_path)[0]) == "handover/images/a.png"


def test_tables_on_other_filesystems(handover, tmp_path):
    handover.rows = [("a.png", ["one"])]
    memory = fsspec.filesystem("memory")
    for name, source in (("captions.json", handover.coco()), ("captions.parquet", handover.parquet())):
        memory.pipe_file(f"/team/{name}", (handover.root / name).read_bytes())
        kind = {
            CocoSource: lambda uri: CocoSource(annotations_uri=uri, images_uri="memory://team"),
            ParquetSource: lambda uri: ParquetSource(table_uri=uri, images_uri="memory://team"),
        }[type(source)]
        assert [s.captions for s in listed(kind(f"memory://team/{name}"), tmp_path)] == [("one",)]


@pytest.mark.parametrize("kind", [CocoSource, ParquetSource])
def test_a_missing_table_is_named(tmp_path, kind):
    where = str(tmp_path / "nowhere")
    uri = {"annotations_uri": where} if kind is CocoSource else {"table_uri": where}
    with pytest.raises(MissingInputError) as caught:
        listed(kind(images_uri="x", **uri), tmp_path)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "0 rows"),
        ({"annotations": []}, "0 rows"),
        ({"images": "none"}, "COCO's format"),
        ({"annotations": [{"image_id": 77, "caption": "x"}]}, "image_id 77"),
        ({"annotations": [{"image_id": [1], "caption": "x"}]}, "annotations[0]"),
        ({"annotations": [{"image_id": 0}]}, "without caption"),
        ({"images": [{"id": 0}]}, "without file_name"),
        ({"images": [{"id": 0, "file_name": 3}]}, "images[0]"),
        ({"images": [{"id": 0, "file_name": "a"}, {"id": 0, "file_name": "b"}]}, "images[1]"),
        ({"images": ["a.png"]}, "images[0]"),
    ],
)
def test_flaws_of_a_coco_table_are_named(handover, tmp_path, changes, message):
    handover.rows = [("a.png", ["one"])]
    with pytest.raises(DataError, match=message.replace("[", r"\[")):
        listed(handover.coco(**changes), tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00"])
def test_a_captions_file_that_is_not_coco(handover, tmp_path, content):
    source = handover.coco()
    (handover.root / "captions.json").write_bytes(content)
    with pytest.raises(DataError):
        listed(source, tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file_name": ["a"]}, "lacks a column"),
        ({"file_name": ["a"], "caption": [7]}, "not text"),
        ({"file_name": [1], "caption": ["x"]}, "not text"),
    ],
)
def test_flaws_of_a_parquet_table_are_named(handover, tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        listed(handover.parquet(**columns), tmp_path)


def test_an_empty_parquet_table(handover, tmp_path):
    import pyarrow as pa

    empty = pa.array([], pa.string())
    with pytest.raises(DataError, match="0 rows"):
        listed(handover.parquet(file_name=empty, caption=empty), tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_truncated_parquet_table(handover, tmp_path, keep):
    handover.rows = [(f"{n}.png", [f"caption {n}"]) for n in range(50)]
    source = handover.parquet()
    path = handover.root / "captions.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="Parquet"):
        listed(source, tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret.png", "a/../../b.png", "/etc/passwd", "", "..", "C:/x.png", "a\0b", "..\\x.png", "s3://b/k.png"]
)
def test_names_that_lead_outside_the_image_folder_have_no_uri(name):
    assert image_uri(ListedSample("s", name, "/images", ())) is None


@pytest.mark.parametrize("name", ["a.png", "train/a.png", "a..b.png", "a:b.png".replace(":", "_")])
def test_names_inside_the_image_folder(name):
    assert image_uri(ListedSample("s", name, "/images/", ())) == f"/images/{name}"


def test_sources_are_read_in_order_under_their_own_names(handover, tmp_path):
    handover.rows = [("a.png", ["one"])]
    sources = (handover.coco(), handover.parquet(), ShapesSource(num_scenes=2))
    names = [sample.source for sample in list_sources(sources, tmp_path)]
    assert names == ["0-coco", "1-parquet", "2-shapes", "2-shapes"]
