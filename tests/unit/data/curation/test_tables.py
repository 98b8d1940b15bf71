"""Tables of every format: what they list is the same, and a row that cannot be used spoils no other."""

import csv
import gzip
import io
import json

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from softalign.config import HFSource, ParquetSource, TableSource
from softalign.data.curation.fingerprint import source_fingerprint
from softalign.data.curation.pipeline import curate
from softalign.data.curation.shards import read_index
from softalign.data.curation.sources import check_source, list_samples, list_sources
from softalign.errors import ConfigError, DataError, MissingInputError

ROWS = [("b.png", "one, two"), ("a.png", 'said "three"\nof caf\u00e9'), ("b.png", "four")]
WANTED = [("b.png", ("one, two", "four")), ("a.png", ('said "three"\nof caf\u00e9',))]

STORED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def written(rows, kind, names=("file_name", "caption")):
    """Return a table of text columns as a file's bytes."""
    table, sink = pa.table({name: [row[k] for row in rows] for k, name in enumerate(names)}), io.BytesIO()
    if kind in {"csv", "tsv"}:
        text = io.StringIO()
        csv.writer(text, delimiter="\t" if kind == "tsv" else ",").writerows([names, *rows])
        return text.getvalue().encode()
    if kind == "jsonl":
        return "".join(f"{json.dumps(row)}\n" for row in table.to_pylist()).encode()
    if kind == "parquet":
        pq.write_table(table, sink)
    else:
        opener = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with opener(sink, table.schema) as writer:
            writer.write_table(table, 2)
    return sink.getvalue()


def compressed(data, suffix):
    """Return bytes in two members, as tools that append write them."""
    if not suffix:
        return data
    parts = (data[: len(data) // 2], data[len(data) // 2 :])
    if suffix == ".gz":
        return b"".join(map(gzip.compress, parts))
    return b"".join(pa.compress(part, "zstd", asbytes=True) for part in parts)


def listed(source, tmp_path):
    return list(list_samples(source, "0-test", tmp_path / "work"))


def pairs(source, tmp_path):
    return [(sample.filename, sample.captions) for sample in listed(source, tmp_path) if sample.flaw is None]


def flaws(source, tmp_path):
    return {s.filename: (s.flaw.reason, s.flaw.detail) for s in listed(source, tmp_path) if s.flaw}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["parquet", "arrow", "feather", "csv", "tsv", "jsonl"])
def test_every_format_lists_the_same(tmp_path, kind, suffix):
    path = tmp_path / f"Table.{kind.upper()}{suffix}"
    path.write_bytes(compressed(written(ROWS, kind), suffix))
    source = TableSource(table_uri=str(path), images_uri=str(tmp_path))
    check_source(source)
    assert pairs(source, tmp_path) == WANTED


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("place", ["t", "t/part-*", "t/part-0000{0..1}", "t/part-{00000,00001}", "t/part-0000[01].*"])
def test_a_table_in_parts(tmp_path, kind, place):
    (tmp_path / "t" / ".hidden").mkdir(parents=True)
    for number, rows in enumerate((ROWS[:1], ROWS[1:])):
        (tmp_path / f"t/part-{number:05d}.{kind}").write_bytes(written(rows, kind))
    for name in ("_SUCCESS", ".part-00000.crc", f"_metadata.{kind}", f".hidden/x.{kind}", "notes.txt"):
        (tmp_path / "t" / name).write_bytes(b"no table")
    uri = str(tmp_path / place) + (f".{kind}" if "}" in place else "")
    source = TableSource(table_uri=uri, images_uri=str(tmp_path))
    check_source(source)
    assert pairs(source, tmp_path) == WANTED
    if kind == "parquet":
        assert pairs(ParquetSource(table_uri=uri, images_uri=str(tmp_path)), tmp_path) == WANTED


def test_parts_on_another_filesystem(tmp_path):
    memory = fsspec.filesystem("memory")
    for number, rows in enumerate((ROWS[:1], ROWS[1:])):
        memory.pipe_file(f"/parts/part-{number}.csv.gz", gzip.compress(written(rows, "csv")))
    memory.pipe_file("/parts/a.png", b"content")
    for uri in ("memory://parts", "memory://parts/part-*.csv.gz", "memory://parts/part-{0..1}.csv.gz"):
        source = TableSource(table_uri=uri, images_uri="memory://parts")
        assert pairs(source, tmp_path) == WANTED
        assert listed(source, tmp_path)[1].images.read("a.png") == b"content"
        assert source_fingerprint(source) == source_fingerprint(source)


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    path = tmp_path / "set[1]{0..2}*.csv"
    path.write_bytes(written(ROWS, "csv"))
    assert pairs(TableSource(table_uri=str(path), images_uri=str(tmp_path)), tmp_path) == WANTED


@pytest.mark.parametrize("place", ["nowhere.csv", "nowhere/*.csv", "part-{0..2}.csv", "empty"])
def test_a_table_that_is_not_there_is_named(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    (tmp_path / "part-0.csv").write_bytes(written(ROWS, "csv"))
    with pytest.raises(MissingInputError) as caught:
        check_source(TableSource(table_uri=str(tmp_path / place)))
    assert caught.value.where.startswith(str(tmp_path))


def test_tables_of_several_kinds_in_one_folder(tmp_path):
    for kind in ("csv", "jsonl"):
        (tmp_path / f"t.{kind}").write_bytes(written(ROWS, kind))
    with pytest.raises(DataError, match=r"t\.csv, t\.jsonl"):
        check_source(TableSource(table_uri=str(tmp_path)))


def test_a_file_of_no_known_kind(tmp_path):
    (tmp_path / "table.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"ends in \.parquet"):
        check_source(TableSource(table_uri=str(tmp_path / "table.xlsx")))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["parquet", "arrow", "feather", "csv", "tsv", "jsonl"])
def test_a_table_that_is_cut_or_no_table_is_told_apart(tmp_path, kind, suffix):
    rows = [(f"{number}.png", f"caption {number:0300d}") for number in range(2000)]
    whole = compressed(written(rows, kind), suffix)
    path = tmp_path / f"table.{kind}{suffix}"
    source = TableSource(table_uri=str(path))
    for data in (whole[: len(whole) // 3], whole[:2], b""):
        is_lines = kind in {"csv", "tsv", "jsonl"} and not suffix and len(data) > 2
        path.write_bytes(data)
        if is_lines:  # a file of lines may end anywhere; its last one is no row, or a shorter one
            assert len(listed(source, tmp_path)) > 500
            continue
        with pytest.raises(DataError):
            listed(source, tmp_path)


def out_of_bounds(kind):
    """Return an array of two cells that leads outside its memory."""
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(pa.array([0, 1000], pa.int32()), pa.array(["x"]), safe=False)
    wrong = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\xff\xff\xff\x7f\x02\0\0\0"), pa.py_buffer(b"ab")]
    )
    if kind == STORED:
        return pa.StructArray.from_arrays([wrong.view(pa.binary()), wrong], ["bytes", "path"])
    return pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), wrong) if pa.types.is_list(kind) else wrong


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.list_(pa.string()), STORED, pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_an_arrow_file_that_leads_outside_its_memory_does_not_end_the_process(tmp_path, kind):
    whole = pa.array(["a.png", "b.png"])
    names = ["caption", "file_name"] if kind == STORED else ["file_name", "caption"]
    batch = pa.record_batch([whole, out_of_bounds(kind)], names)
    with pa.ipc.new_stream(tmp_path / "t.arrow", batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DataError, match="not a sound Arrow file"):
        listed(TableSource(table_uri=str(tmp_path / "t.arrow"), images_uri=str(tmp_path)), tmp_path)


def test_lists_of_captions_and_several_columns(tmp_path):
    columns = {
        "file_name": ["a.png", "b.png", "c.png"],
        "short": ["a cat", None, ""],
        "long": [["a black cat", "a cat, black"], ["a dog"], None],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in pa.table(columns).to_pylist()))
    for name in ("t.parquet", "t.jsonl"):
        source = TableSource(
            table_uri=str(tmp_path / name), images_uri=str(tmp_path), caption_columns=("short", "long")
        )
        assert pairs(source, tmp_path) == [
            ("a.png", ("a cat", "a black cat", "a cat, black")),
            ("b.png", ("a dog",)),
            ("c.png", ()),
        ]
        one = TableSource(table_uri=str(tmp_path / name), images_uri=str(tmp_path), caption_columns=("long",))
        assert pairs(one, tmp_path)[:2] == [("a.png", ("a black cat", "a cat, black")), ("b.png", ("a dog",))]
    source = ParquetSource(table_uri=str(tmp_path / "t.parquet"), images_uri=str(tmp_path), caption_column="long")
    assert pairs(source, tmp_path)[0] == ("a.png", ("a black cat", "a cat, black"))


def test_a_text_in_a_list_that_is_no_utf8_spoils_no_other(tmp_path):
    flat = pa.array([b"one", b"caf\xe9", b"two"], pa.binary()).view(pa.string())
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3], pa.int32()), flat)
    pq.write_table(pa.table({"file_name": ["a.png", "b.png"], "caption": lists}), tmp_path / "t.parquet")
    found = pairs(TableSource(table_uri=str(tmp_path / "t.parquet"), images_uri=str(tmp_path)), tmp_path)
    assert found == [("a.png", ("one", b"caf\xe9")), ("b.png", ("two",))]


def test_paths_in_a_table_without_an_image_folder(tmp_path):
    (tmp_path / "t.csv").write_text("file_name,caption\na.png,x\n/etc/passwd,y\n")
    source = TableSource(table_uri=str(tmp_path / "t.csv"))
    assert flaws(source, tmp_path) == {
        "a.png": ("unsafe_path", "a path, and the source has no images_uri"),
        "/etc/passwd": ("unsafe_path", "an absolute path"),
    }


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), STORED, pa.struct([("bytes", pa.binary())])])
@pytest.mark.parametrize("format_name", ["parquet", "arrow"])
def test_images_that_a_table_holds_itself(tmp_path, kind, format_name):
    cells = [{"bytes": b"first", "path": "a.jpg"}, {"bytes": b"second", "path": None}, None]
    if not pa.types.is_struct(kind):
        cells = [b"first", b"second", None]
    elif kind.num_fields == 1:
        cells = [{"bytes": b"first"}, {"bytes": b"second"}, None]
    table = pa.table({"image": pa.array(cells, kind), "text": ["one", "two", "three"]})
    path = tmp_path / f"t.{format_name}"
    if format_name == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    source = TableSource(table_uri=str(path), image_column="image", caption_columns=("text",))
    samples = listed(source, tmp_path)
    assert [s.images.read(s.filename) for s in samples[:2]] == [b"first", b"second"]
    assert [s.captions for s in samples] == [("one",), ("two",), ()]
    name = "a.jpg" if kind == STORED else "rows[0]"
    assert [s.filename for s in samples] == [name, "rows[1]", "rows[2]"]
    assert samples[2].flaw.reason == "no_name"


def test_a_held_image_may_be_a_path_instead_and_its_name_may_be_anything(tmp_path):
    cells = [
        {"bytes": None, "path": str(tmp_path / "images/a.jpg")},
        {"bytes": None, "path": b"caf\xe9.jpg"},
        {"bytes": None, "path": "../x.jpg"},
        {"bytes": b"held", "path": "../x.jpg"},
        {"bytes": b"held", "path": b"caf\xe9.jpg"},
    ]
    paths = pa.array([c["path"] if isinstance(c["path"], bytes) else c["path"].encode() for c in cells], pa.binary())
    data = pa.array([c["bytes"] for c in cells], pa.binary())
    stored = pa.StructArray.from_arrays([data, paths.view(pa.string())], ["bytes", "path"])
    pq.write_table(pa.table({"image": stored, "caption": list("abcde")}), tmp_path / "t.parquet")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_bytes(b"content")
    source = TableSource(
        table_uri=str(tmp_path / "t.parquet"), images_uri=str(tmp_path / "images"), image_column="image"
    )
    samples = listed(source, tmp_path)
    assert [s.filename for s in samples] == ["a.jpg", "caf\\xe9.jpg", "../x.jpg", "../x.jpg", "caf\\xe9.jpg"]
    assert [s.flaw.reason if s.flaw else "" for s in samples] == ["", "name_not_text", "unsafe_path", "", ""]
    assert samples[0].images.read(samples[0].filename) == b"content"


def test_parts_that_hold_images_after_one_with_paths(tmp_path):
    pq.write_table(pa.table({"file_name": ["a.png"], "caption": ["x"]}), tmp_path / "part-0.parquet")
    pq.write_table(pa.table({"file_name": [b"data"], "caption": ["x"]}), tmp_path / "part-1.parquet")
    with pytest.raises(DataError, match="differ"):
        listed(TableSource(table_uri=str(tmp_path)), tmp_path)


def test_places_in_parts_say_which(tmp_path):
    for number in range(2):
        pq.write_table(pa.table({"image": [b"x"], "caption": ["y"]}), tmp_path / f"part-{number}.parquet")
    samples = listed(TableSource(table_uri=str(tmp_path), image_column="image"), tmp_path)
    assert [s.filename for s in samples] == ["part-0.parquet: rows[0]", "part-1.parquet: rows[0]"]


def test_lines_of_a_csv_file_that_are_no_rows(tmp_path):
    lines = [b"a.png,one", b"", b"b.png", b'c.png,"two"x', b"d.png,caf\xe9", b",five", b"a.png,six", b'"e.png,seven']
    text = b"\r\n".join([b"\xef\xbb\xbffile_name,caption", *lines, b""])
    (tmp_path / "t.csv").write_bytes(text)
    source = TableSource(table_uri=str(tmp_path / "t.csv"), images_uri=str(tmp_path))
    assert pairs(source, tmp_path) == [("a.png", ("one", "six")), ("d.png", ("caf\udce9",))]
    assert {place: reason for place, (reason, _) in flaws(source, tmp_path).items()} == {
        "rows[1]": "unusable_entry",
        "rows[2]": "unusable_entry",
        "rows[4]": "no_name",
        "rows[6]": "unusable_entry",
    }
    assert flaws(source, tmp_path)["rows[1]"][1] == "1 fields in place of 2"


def test_a_field_of_a_csv_file_that_is_too_long_is_called_that(tmp_path):
    (tmp_path / "t.csv").write_text(f"file_name,caption\na.png,{'word ' * 30_000}\nb.png,two\n")
    source = TableSource(table_uri=str(tmp_path / "t.csv"), images_uri=str(tmp_path))
    assert pairs(source, tmp_path) == [("b.png", ("two",))]
    told = "a field of more than 131072 characters, as where a quote is not closed"
    assert flaws(source, tmp_path) == {"rows[0]": ("unusable_entry", told)}


def test_lines_of_a_json_file_that_are_no_rows(tmp_path):
    rows = [
        '{"file_name": "a.png", "caption": "one"}',
        "",
        "[1]",
        '{"file_name": "b.png", "caption": ',
        '{"file_name": ["x"], "caption": "three"}',
        '{"file_name": "c.png"}',
        '{"file_name": "half \\ud83d.png", "caption": "four"}',
        '{"caption": "five"}',
        "[" * 100_000,
        '{"file_name": "a.png", "caption": 7}',
    ]
    (tmp_path / "t.jsonl").write_text("\r\n".join(rows))
    source = TableSource(table_uri=str(tmp_path / "t.jsonl"), images_uri=str(tmp_path))
    assert pairs(source, tmp_path) == [("a.png", ("one", 7)), ("c.png", (None,))]
    assert {place: reason for place, (reason, _) in flaws(source, tmp_path).items()} == {
        "rows[1]": "unusable_entry",
        "rows[2]": "unusable_entry",
        "['x']": "name_not_text",
        "half \\ud83d.png": "name_not_text",
        "rows[6]": "no_name",
        "rows[7]": "unusable_entry",
    }


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["tsv", "jsonl"])
def test_text_tables_may_be_in_any_unicode(tmp_path, kind, encoding):
    (tmp_path / f"t.{kind}").write_bytes(written(ROWS, kind).decode().encode(encoding))
    assert pairs(TableSource(table_uri=str(tmp_path / f"t.{kind}"), images_uri=str(tmp_path)), tmp_path) == WANTED


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"name;text\n", "columns name;text"),
        ("t.csv", b"file_name,caption,caption\n", "several columns of one name"),
        ("t.csv", b'"file_name\n', "names no columns"),
        ("t.csv", b"file_name,caption\n", "0 rows"),
        ("t.jsonl", b'{"path": "x"}\n', "columns path"),
        ("t.jsonl", b"[\n1\n]\n", "no object"),
        ("t.jsonl", b"", "0 rows"),
        ("t.parquet", b"file_name,caption\n", "not a sound Parquet file"),
        ("t.csv", b"PAR1\x00\x00", "columns PAR1"),
    ],
)
def test_a_table_that_cannot_be_used_says_what_it_is(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        listed(TableSource(table_uri=str(tmp_path / name), images_uri=str(tmp_path)), tmp_path)


def saved(folder, table, num_files=2):
    """Write a table as ``save_to_disk`` of Hugging Face datasets does: Arrow streams and a state."""
    folder.mkdir(parents=True)
    names, size = [], -(-table.num_rows // num_files)
    for number in range(num_files):
        names.append(f"data-{number:05d}-of-{num_files:05d}.arrow")
        with pa.ipc.new_stream(folder / names[-1], table.schema) as writer:
            writer.write_table(table.slice(number * size, size), 2)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return HFSource(dataset_uri=str(folder))


def test_a_hugging_face_dataset_saved_to_disk(tmp_path):
    cells = pa.array([{"bytes": f"image {n}".encode(), "path": f"{n}.jpg"} for n in range(5)], STORED)
    table = pa.table({"image": cells, "caption": [[f"one of {n}", f"two of {n}"] for n in range(5)], "id": range(5)})
    source = saved(tmp_path / "d", table)
    check_source(source)
    samples = listed(source, tmp_path)
    assert [s.images.read(s.filename) for s in samples] == [f"image {n}".encode() for n in range(5)]
    assert [s.captions for s in samples] == [(f"one of {n}", f"two of {n}") for n in range(5)]
    before = source_fingerprint(source)
    saved(tmp_path / "other", table.slice(1))
    (tmp_path / "other/state.json").rename(tmp_path / "d/state.json")
    (tmp_path / "other/data-00000-of-00002.arrow").rename(tmp_path / "d/data-00000-of-00002.arrow")
    assert source_fingerprint(source) != before


def test_a_place_without_a_saved_dataset_says_what_is_there(tmp_path):
    with pytest.raises(MissingInputError, match=r"state\.json"):
        check_source(HFSource(dataset_uri=str(tmp_path)))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(MissingInputError, match=r"(?s)splits train, test.*/train"):
        check_source(HFSource(dataset_uri=str(tmp_path)))
    for state in ("{", "[]", '{"_data_files": []}', '{"_data_files": [{"filename": "../x"}]}', '{"_data_files": [7]}'):
        (tmp_path / "state.json").write_text(state)
        with pytest.raises(DataError):
            check_source(HFSource(dataset_uri=str(tmp_path)))
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    with pytest.raises(MissingInputError, match=r"gone\.arrow"):
        check_source(HFSource(dataset_uri=str(tmp_path)))


def test_sources_of_all_kinds_become_one_dataset(tmp_path, handover, configure, store, make_picture):
    handover.add_pictures(8)
    (tmp_path / "t.csv").write_bytes(written([(f"{n:03d}.png", f"of a table {n}") for n in range(2, 4)], "csv"))
    data = [(handover.images / f"{n:03d}.png").read_bytes() for n in range(4, 6)]
    held = pa.table({"image": pa.array([{"bytes": d} for d in data], STORED), "caption": ["held one", "held two"]})
    sources = (
        handover.parquet(file_name=["000.png", "001.png"], caption=["of parquet 0", "of parquet 1"]),
        TableSource(table_uri=str(tmp_path / "t.csv"), images_uri=str(handover.images)),
        saved(tmp_path / "hf", held),
    )
    totals = []
    assert len(list(list_sources(sources, tmp_path, totals.append))) == 6
    assert totals == [], "an Arrow stream does not say how many rows it has"
    list(list_sources(sources[:2], tmp_path, totals.append))
    assert totals == [4]
    manifest = curate(configure(*sources), store, "k")
    rows = [row for path in sorted((tmp_path / "store").rglob("shard-*.parquet")) for row in read_index(path)]
    assert manifest.num_samples == 6
    assert [row.source for row in rows] == ["0-parquet"] * 2 + ["1-table"] * 2 + ["2-hf"] * 2
    assert [row.file_name for row in rows][-2:] == [
        "data-00000-of-00002.arrow: rows[0]",
        "data-00001-of-00002.arrow: rows[0]",
    ]


def test_all_that_is_wrong_with_a_table_is_said_at_once(tmp_path):
    arrays = [pa.array([1]), pa.array(["x"]), pa.array(["y"]), pa.nulls(1)]
    pq.write_table(pa.Table.from_arrays(arrays, ["file_name", "a", "a", "b"]), tmp_path / "t.parquet")
    source = TableSource(table_uri=str(tmp_path / "t.parquet"), caption_columns=("a", "b", "c"))
    with pytest.raises(DataError, match="4 reasons") as caught:
        check_source(source)
    for words in ("lacks a column", "several columns of one name", "is empty", "paths as text, or images"):
        assert words in str(caught.value)


def test_a_source_on_no_known_filesystem():
    with pytest.raises(ConfigError):
        check_source(TableSource(table_uri="nosuch://x/t.csv"))


def test_a_changed_table_is_another_content_and_a_touched_one_is_not(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_bytes(written(ROWS, "csv"))
    source = TableSource(table_uri=str(path))
    before = source_fingerprint(source)
    path.touch()
    assert source_fingerprint(source) == before
    path.write_bytes(path.read_bytes().replace(b"four", b"five"))
    after = source_fingerprint(source)
    assert after != before
    monkeypatch.setattr("softalign.data.curation.fingerprint.MAX_HASHED_BYTES", 1)
    large = source_fingerprint(source)
    assert large == source_fingerprint(source) != after
    path.write_bytes(path.read_bytes() + b"c.png,x\n")
    assert source_fingerprint(source) != large
