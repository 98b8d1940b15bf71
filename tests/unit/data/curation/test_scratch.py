"""Listings that are sorted and grouped on the disk are those that dicts and sorted lists would give."""

import json
import os
import random
import sqlite3
import tracemalloc

import pytest

from softalign.config.curation import CocoSource, FolderSource, TableSource
from softalign.data.curation import fingerprint, scratch
from softalign.data.curation.caption_files import IMAGE_SUFFIXES, TEXT_SUFFIXES
from softalign.data.curation.names import NameRules, shown
from softalign.data.curation.rejections import Flaw
from softalign.data.curation.scratch import Grouped, SortedFiles
from softalign.data.curation.sources import list_samples
from softalign.data.curation.tables import CaptionTable
from softalign.errors import StorageUnavailableError

NAMES = ["a.jpg", "d/b c.JPG", "é.jpg", "e\u0301.jpg", "日/本.png", "a", "😀.webp"]
ODD_NAMES = [
    "",
    None,
    7,
    [1],
    {"a": 1},
    "../x.jpg",
    "/etc/x.jpg",
    "http://h/x.jpg",
    "a\0b",
    "\udce9.jpg",
    "\ud83d.jpg",
    ".",
]
ODD_CAPTIONS = [None, 7, 1.5, True, "", "\udce9", "\ud83d", "two  spaces", '"quoted"', ["x", None, 3, "y"]]


def odd_rows(number, seed):
    """Return rows of a name and a caption, many of the same names and captions, some of neither."""
    rng = random.Random(seed)
    names = [f"{rng.choice(NAMES)}{n}.jpg" for n in range(number // 4)]
    for index in range(number):
        name = rng.choice(ODD_NAMES) if rng.random() < 0.1 else rng.choice(names)
        yield name, rng.choice([*ODD_CAPTIONS, f"caption {index}", f"caption {index % 9}"])


def flattened(caption):
    return caption if isinstance(caption, list) else [caption]


def grouped_in_memory(rows, source):
    """Return what a listing of rows must be: names in the order of their first rows, then those that are none."""
    rules, captions, flaws = NameRules.of_folder(source.images_uri), {}, {}
    for index, (name, caption) in enumerate(rows):
        found = rules.read(name)
        if isinstance(found, Flaw):
            flaws.setdefault(f"rows[{index}]" if found.reason == "no_name" else shown(name), found)
        else:
            captions.setdefault(found, []).extend(flattened(caption))
    return [(name, tuple(texts), None) for name, texts in captions.items()] + [
        (name, (), flaw) for name, flaw in flaws.items()
    ]


def listed(source):
    return [(one.filename, one.captions, one.flaw) for one in list_samples(source, "0-test", None)]


def test_rows_of_a_table_are_grouped_as_a_dict_groups_them(tmp_path):
    rows = list(odd_rows(2000, seed=1))
    lines = [json.dumps({"file_name": name, "caption": caption}) for name, caption in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    source = TableSource(table_uri=str(tmp_path / "t.jsonl"), images_uri=str(tmp_path))
    expected = grouped_in_memory(rows, source)
    assert listed(source) == expected
    assert len([flaw for *_, flaw in expected if flaw]) > 30
    assert max(len(captions) for _, captions, _ in expected) > 4

    weighted = source.model_copy(update={"caption_weights": (0.5,)})
    texts = [one for sample in list_samples(weighted, "0", None) for one in sample.captions]
    assert {one.weight for one in texts if isinstance(one, str)} == {0.5}
    assert texts == [one for _, captions, _ in expected for one in captions]


def test_annotations_are_grouped_by_the_order_of_the_images(tmp_path):
    rng = random.Random(2)
    images = [{"id": index, "file_name": f"{index * 7919 % 500:03d}.jpg"} for index in range(500)]
    annotations = [{"image_id": rng.randrange(400), "caption": f"text {n % 50}"} for n in range(2000)]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    expected = {image["id"]: [] for image in images}
    for one in annotations:
        expected[one["image_id"]].append(one["caption"])
    found = listed(CocoSource(annotations_uri=str(tmp_path / "c.json"), images_uri=str(tmp_path)))
    assert found == [(image["file_name"], tuple(expected[image["id"]]), None) for image in images]


def test_pairs_of_a_folder_are_those_of_a_sorted_list(tmp_path):
    rng, root = random.Random(3), tmp_path / "images"
    for number in range(300):
        stem = rng.choice(["{}", "d{}/é", "d/{}.x", "z {}"]).format(number)
        for suffix in rng.sample([".jpg", ".PNG", ".txt", ".TXT", ".caption", ".json", ".md", ""], 3):
            path = root / f"{stem}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('{"caption": "in JSON"}' if suffix == ".json" else f"{stem}{suffix}")
    (root / os.fsdecode(b"caf\xe9.jpg")).write_text("a name that is no text")
    found = [(one.filename, one.captions) for one in list_samples(FolderSource(images_uri=str(root)), "0", None)]
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    assert [name for name, _ in found] == [shown(name) for name in images]
    for name, captions in found:
        beside = [other for other in names if other != name and other.rpartition(".")[0] == name.rpartition(".")[0]]
        texts = {other[other.rindex(".") :].lower(): other for other in beside if other.lower().endswith(TEXT_SUFFIXES)}
        expected = ["in JSON" if suffix == ".json" else texts[suffix] for suffix in TEXT_SUFFIXES if suffix in texts]
        assert captions == tuple(expected), name


def test_names_are_sorted_as_text_is_and_each_is_there_once():
    names = ["b", "a", "a\x00", "\ud7ff", "\ue000", "\udce9", "😀", "", "ab", "Z"]
    files = [(name, index) for index, name in enumerate(names)]
    found = SortedFiles([*files, ("a", None)])
    assert list(found) == list(found) == sorted((dict(files) | {"a": None}).items())


def test_more_than_the_cache_holds_is_grouped_with_the_same_result():
    rng, grouped, expected = random.Random(4), Grouped(), {}
    for index in range(3000):
        name, value = f"{rng.randrange(500)}", rng.randbytes(2000) + str(index).encode()
        grouped.add(name, value)
        expected.setdefault(name, []).append(value)
    assert list(grouped) == list(expected)
    assert len(grouped) == len(expected)
    assert list(grouped.items()) == list(expected.items())


def test_a_listing_holds_no_names_and_no_captions_in_memory(tmp_path):
    tables = []
    for number in (200, 2000):
        lines = (json.dumps({"file_name": f"{n}.jpg", "caption": f"caption {n} {'long ' * 20}"}) for n in range(number))
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
        tables.append(TableSource(table_uri=str(tmp_path / f"{number}.jsonl"), images_uri=str(tmp_path)))

    def peak_of(source):
        tracemalloc.start()
        try:
            assert sum(1 for _ in list_samples(source, "0", None)) > 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_of(tables[0])  # what is loaded once
    small, large = map(peak_of, tables)
    assert large - small < 1800 * 20


def test_a_digest_of_files_one_by_one_is_that_of_their_list():
    for number in (0, 1, 999, 1000, 1001, 2500):
        files = [(f"{index}", index) for index in range(number)]
        for parts in (lambda listed: ["x", listed], lambda listed: [listed, []], lambda listed: [listed]):
            assert fingerprint._digest_of_parts(parts(iter(files))) == fingerprint.digest_of(parts(files))


def test_a_full_disk_for_temporary_files_is_said(monkeypatch):
    real = sqlite3.connect

    def small(*arguments, **options):
        connection = real(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 20")
        return connection

    monkeypatch.setattr(scratch.sqlite3, "connect", small)
    table = CaptionTable()
    with pytest.raises(StorageUnavailableError, match="SQLITE_TMPDIR"):
        for index in range(10_000):
            table.add_image(f"{index}.jpg", "", ["a caption"])
