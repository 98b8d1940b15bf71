"""Captions tables: what is read, and that every flaw is named."""

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softalign.config import CocoSource, ParquetSource, ShapesSource
from softalign.data.curation.sources import list_samples, list_sources
from softalign.errors import DataError, MissingInputError


def listed(source, tmp_path):
    return list(list_samples(source, "0-test", tmp_path / "work"))


@pytest.mark.parametrize("table", ["coco", "parquet"])
def test_captions_are_grouped_by_image_in_the_tables_order(handover, tmp_path, table):
    handover.rows = [("b.png", ["one", "two"]), ("a.png", ["three"])]
    samples = listed(getattr(handover, table)(), tmp_path)
    assert [(s.filename, s.captions) for s in samples] == [("b.png", ("one", "two")), ("a.png", ("three",))]
    assert {s.images.uri for s in samples} == {str(handover.images)}


def test_parquet_rows_of_an_image_need_not_be_adjacent(handover, tmp_path):
    source = handover.parquet(file_name=["a", "b", "a"], caption=["1", "2", "3"])
    assert [(s.filename, s.captions) for s in listed(source, tmp_path)] == [("a", ("1", "3")), ("b", ("2",))]


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
    (sample,) = listed(source, tmp_path)
    (handover.images / "a.png").write_bytes(b"content")
    assert sample.images.read(sample.filename) == b"content"


@pytest.mark.parametrize("table", ["coco", "parquet"])
def test_names_as_windows_and_training_tools_write_them_are_found(handover, tmp_path, table):
    handover.rows = [("train\\a.png", ["one"]), (str(handover.images / "b.png"), ["two"])]
    for name in ("train/a.png", "b.png"):
        (handover.images / name).parent.mkdir(parents=True, exist_ok=True)
        (handover.images / name).write_bytes(name.encode())
    samples = listed(getattr(handover, table)(), tmp_path)
    assert [(s.filename, s.flaw) for s in samples] == [("train\\a.png", None), ("b.png", None)]
    assert [s.images.read(s.filename) for s in samples] == [b"train/a.png", b"b.png"]


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
        ({"images": "none"}, "COCO's layout"),
        ({"annotations": [{"image_id": 77, "caption": "x"}]}, "image_id 77"),
        ({"annotations": [{"image_id": "0", "caption": "x"}]}, "both ids as numbers, or both as text"),
        ({"annotations": [{"image_id": [1], "caption": "x"}]}, "names an image"),
        ({"annotations": [{"image_id": 0}]}, "has a caption"),
        ({"annotations": [{"image_id": 0, "bbox": [1, 2, 3, 4], "category_id": 18}]}, "boxes of objects"),
        ({"annotations": [{"image_id": 0, "segments_info": []}]}, "panoptic"),
        ({"annotations": ["a caption"]}, "found: str"),
        ({"images": ["a.png"]}, "names an image"),
        ({"images": [{"filename": "a.png", "sentences": []}], "annotations": 0}, "Karpathy's layout(?s:.)*JSON lines"),
    ],
)
def test_a_coco_table_of_another_kind_is_told_apart(handover, tmp_path, changes, message):
    handover.rows = [("a.png", ["one"])]
    with pytest.raises(DataError, match=message):
        listed(handover.coco(**changes), tmp_path)


def test_an_entry_of_a_coco_table_that_cannot_be_used_spoils_no_other(handover, tmp_path):
    images = [
        {"id": 0, "file_name": "a.png"},
        {"id": 0, "file_name": "same-id.png"},
        {"id": [1], "file_name": "list-id.png"},
        {"id": True, "file_name": "true-id.png"},
        {"id": 2},
        {"id": 3, "file_name": 7},
        {"id": 4, "file_name": "half \ud83d.png"},
        "b.png",
        {"id": 5.0, "file_name": "b.png"},
    ]
    pairs = [(0.0, "one"), (5, "two"), (2, "of a nameless image"), (77, "x"), (77, "y"), (None, "z"), (4, "v")]
    annotations = [{"image_id": image_id, "caption": caption} for image_id, caption in pairs]
    source = handover.coco(images=images, annotations=[*annotations, {"image_id": 0}, "no entry"])
    samples = listed(source, tmp_path)
    assert [(s.filename, s.captions) for s in samples if s.flaw is None] == [
        ("a.png", ("one", None)),
        ("b.png", ("two",)),
    ]
    assert {s.filename: s.flaw.reason for s in samples if s.flaw} == {
        "images[1]: same-id.png": "unusable_entry",
        "images[2]: list-id.png": "unusable_entry",
        "images[3]: true-id.png": "unusable_entry",
        "images[4]": "no_name",
        "7": "name_not_text",
        "half \\ud83d.png": "name_not_text",
        "images[7]": "unusable_entry",
        "annotations[5]": "unusable_entry",
        "annotations[8]": "unusable_entry",
        "image_id 77": "unknown_image",
    }


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_coco_table_may_be_in_any_unicode(handover, tmp_path, encoding):
    handover.rows = [("\u00fcber.png", ["one"])]
    source = handover.coco()
    path = handover.root / "captions.json"
    path.write_bytes(path.read_text().encode(encoding))
    assert [s.filename for s in listed(source, tmp_path)] == ["\u00fcber.png"]


def test_bytes_of_a_coco_table_that_are_no_utf8_spoil_the_text_they_are_in(handover, tmp_path):
    handover.rows = [("a.png", ["one", "caf\u00e9"]), ("caf\u00e9.png", ["two"])]
    source = handover.coco()
    path = handover.root / "captions.json"
    path.write_bytes(path.read_bytes().replace(rb"\u00e9", b"\xe9"))
    good, bad = listed(source, tmp_path)
    assert (good.filename, good.captions[0]) == ("a.png", "one")
    assert (bad.filename, bad.flaw.reason) == ("caf\\udce9.png", "name_not_text")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"[" * 100_000, b'{"images": ' + b"9" * 5000]
)
def test_a_captions_file_that_is_not_coco(handover, tmp_path, content):
    source = handover.coco()
    (handover.root / "captions.json").write_bytes(content)
    with pytest.raises(DataError):
        listed(source, tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file_name": ["a"]}, "lacks a column"),
        ({"file_name": ["a"], "caption": [7]}, "text, or lists of texts"),
        ({"file_name": ["a"], "caption": [{"en": "x"}]}, "text, or lists of texts"),
        ({"file_name": ["a"], "caption": [[7]]}, "text, or lists of texts"),
        ({"file_name": [1], "caption": ["x"]}, "paths as text, or images as bytes"),
        ({"file_name": [["a"]], "caption": ["x"]}, "paths as text, or images as bytes"),
        ({"file_name": [{"path": "a.png"}], "caption": ["x"]}, "paths as text, or images as bytes"),
        ({"file_name": ["a"], "caption": pa.nulls(1)}, "no value in any row"),
    ],
)
def test_flaws_of_a_parquet_table_are_named(handover, tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        listed(handover.parquet(**columns), tmp_path)


def test_two_columns_of_one_name(handover, tmp_path):
    source = handover.parquet(file_name=["a"], caption=["x"])
    table = pa.Table.from_arrays(
        [pa.array(["a"]), pa.array(["x"]), pa.array(["y"])], ["file_name", "caption", "caption"]
    )
    pq.write_table(table, handover.root / "captions.parquet")
    with pytest.raises(DataError, match="several columns of one name"):
        listed(source, tmp_path)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_kind_of_text_column(handover, tmp_path, kind):
    source = handover.parquet(file_name=pa.array(["a", "\u00e4", "a"], kind), caption=pa.array(["1", None, "3"], kind))
    assert [(s.filename, s.captions) for s in listed(source, tmp_path)] == [("a", ("1", "3")), ("\u00e4", (None,))]


def test_a_cell_that_cannot_be_used_spoils_no_other(handover, tmp_path):
    names = [b"a.png", b"caf\xe9.png", None, b"a.png", b"", b"../b.png", b"../b.png", b"caf\xe9.png"]
    captions = [b"one", b"two", b"three", b"caf\xe9", b"five", b"six", b"seven", b"eight"]
    cells = [pa.array(column, pa.binary()).view(pa.string()) for column in (names, captions)]
    samples = listed(handover.parquet(file_name=cells[0], caption=cells[1]), tmp_path)
    assert [(s.filename, s.captions) for s in samples if s.flaw is None] == [("a.png", ("one", b"caf\xe9"))]
    assert {s.filename: s.flaw.reason for s in samples if s.flaw} == {
        "caf\\xe9.png": "name_not_text",
        "rows[2]": "no_name",
        "rows[4]": "no_name",
        "../b.png": "unsafe_path",
    }


def test_a_folder_in_the_place_of_a_captions_file_says_what_it_holds(tmp_path):
    (tmp_path / "table").mkdir()
    for name in ("part-00000.parquet", "part-00001.parquet", "_SUCCESS"):
        (tmp_path / "table" / name).touch()
    source = CocoSource(images_uri="x", annotations_uri=str(tmp_path / "table"))
    with pytest.raises(MissingInputError, match="a folder with _SUCCESS, part-00000"):
        listed(source, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"PAR1", "a Parquet file"), (b"\x1f\x8b\x08", "a gzip file"), (b"", "an empty file"), (b" \n<html>", "an HTML")],
)
def test_a_table_of_another_kind_says_what_it_is(handover, tmp_path, content, words):
    for source, name in ((handover.coco(), "captions.json"), (handover.parquet(file_name=["a"]), "captions.parquet")):
        (handover.root / name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            listed(source, tmp_path)


@pytest.mark.parametrize("found", ["nothing", "a file"])
def test_an_image_folder_that_is_not_there_is_the_sources_failure(handover, tmp_path, found):
    handover.rows = [("a.png", ["one"])]
    source = handover.coco()
    handover.images.rmdir()
    if found == "a file":
        handover.images.touch()
    with pytest.raises(MissingInputError, match=f"found: {found}"):
        listed(source, tmp_path)


def test_column_names_that_are_no_utf8(handover, tmp_path):
    source = handover.parquet(file_name=["a"], caption=["x"])
    path = handover.root / "captions.parquet"
    path.write_bytes(path.read_bytes().replace(b"caption", b"capti\xffn"))
    with pytest.raises(DataError, match="not a sound Parquet file"):
        listed(source, tmp_path)


def test_an_empty_parquet_table(handover, tmp_path):
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


def test_sources_are_read_in_order_under_their_own_names(handover, tmp_path):
    handover.rows = [("a.png", ["one"])]
    sources = (handover.coco(), handover.parquet(), ShapesSource(num_scenes=2))
    names = [sample.source for sample in list_sources(sources, tmp_path)]
    assert names == ["0-coco", "1-parquet", "2-shapes", "2-shapes"]
