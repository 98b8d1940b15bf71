"""Images with captions in files of the same names: in folders, and in WebDataset tars."""

import gzip
import io
import json
import os
import tarfile

import fsspec
import pytest

from softalign.config import CurationConfig, FolderSource, WebDatasetSource
from softalign.data.curation.fingerprint import source_fingerprint
from softalign.data.curation.pipeline import curate
from softalign.data.curation.sources import check_source, list_samples
from softalign.data.curation.webdataset import MAX_MEMBER_BYTES
from softalign.errors import DataError, MissingInputError

FILES = {
    "a.jpg": b"image a",
    "a.txt": b"\xef\xbb\xbfone caption\nof two lines\n",
    "b.JPG": b"image b",
    "b.caption": "caf\u00e9".encode("utf-16"),
    "b.json": b'{"caption": ["first", "second"], "width": 7}',
    "below/c.d.png": b"image c",
    "below/c.d.txt": b"caf\xe9",
    "e.webp": b"image e",
    "f.jpg": b"image f",
    "f.json": b'{"caption": ',
    "g.jpg": b"image g",
    "g.txt": b"same",
    "g.json": b'{"caption": "same"}',
    "h.jpg": b"image h",
    "h.json": b"[1]",
    "i.txt": b"a caption without an image",
    ".j.jpg": b"hidden",
    "k.jpg": b"image k",
    "k.json": b'{"caption": 7, "other": "x"}',
}
WANTED = {
    "a.jpg": ("one caption\nof two lines\n",),
    "b.JPG": ("caf\u00e9", "first", "second"),
    "below/c.d.png": (b"caf\xe9",),
    "e.webp": (),
    "f.jpg": (b"",),
    "g.jpg": ("same",),
    "h.jpg": (),
    "k.jpg": (7,),
}


def listed(source, tmp_path):
    return list(list_samples(source, "0-test", tmp_path / "work"))


PASSED_OVER = {".git/j.jpg": b"hidden too", "softalign-store/train/0.png": b"made here"}


def folder_of(tmp_path, files=FILES):
    for name, data in {**files, **PASSED_OVER}.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return FolderSource(images_uri=str(tmp_path / "images"))


def tar_of(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_a_folder_of_images_with_files_beside_them(tmp_path):
    source = folder_of(tmp_path)
    check_source(source)
    samples = listed(source, tmp_path)
    assert {s.filename: s.captions for s in samples} == WANTED
    assert [s.filename for s in samples] == sorted(WANTED)
    assert [s.images.read(s.filename) for s in samples] == [FILES[name] for name in sorted(WANTED)]


def test_a_folder_on_another_filesystem(tmp_path):
    memory = fsspec.filesystem("memory")
    for name, data in FILES.items():
        memory.pipe_file(f"/pairs/{name}", data)
    source = FolderSource(images_uri="memory://pairs", caption_field="other")
    found = {s.filename: s.captions for s in listed(source, tmp_path)}
    assert found == {**WANTED, "b.JPG": ("caf\u00e9",), "k.jpg": ("x",)}
    assert source_fingerprint(source) == source_fingerprint(source)


def test_a_caption_of_the_same_length_is_another_content(tmp_path):
    source = folder_of(tmp_path)
    before = source_fingerprint(source)
    assert source_fingerprint(source) == before
    (tmp_path / "images/g.txt").write_bytes(b"none")
    assert source_fingerprint(source) != before


def test_odd_files_in_a_folder_cost_their_image_alone(tmp_path):
    source = folder_of(tmp_path)
    for name in ("l.jpg", "m.jpg", "n.jpg", "o.jpg", "caf\udce9.jpg"):
        (tmp_path / "images" / name).write_bytes(b"x")
    (tmp_path / "images/o.txt").write_bytes(bytes(2**20 + 1))
    (tmp_path / "images/l.txt").symlink_to("nowhere")
    (tmp_path / "images/m.txt").symlink_to("m.txt")
    (tmp_path / "images/up").symlink_to(".")
    os.mkfifo(tmp_path / "images/n.txt")
    samples = listed(source, tmp_path)
    assert {s.filename: s.captions for s in samples if s.flaw is None} == WANTED
    assert {s.filename: s.flaw.reason for s in samples if s.flaw} == {
        "l.jpg": "missing_image",
        "m.jpg": "missing_image",
        "n.jpg": "missing_image",
        "o.jpg": "too_many_bytes",
        "caf\\udce9.jpg": "name_not_text",
    }
    assert source_fingerprint(source) == source_fingerprint(source)


def test_a_folder_that_is_not_there_or_without_images(tmp_path):
    source = FolderSource(images_uri=str(tmp_path / "images"))
    with pytest.raises(MissingInputError):
        check_source(source)
    folder_of(tmp_path, {"a.txt": b"x"})
    with pytest.raises(DataError, match="no image"):
        listed(source, tmp_path)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.zst"])
def test_a_tar_of_samples(tmp_path, suffix):
    tar_of(tmp_path / "00000.tar", FILES)
    data = (tmp_path / "00000.tar").read_bytes()
    if suffix == ".tar.zst":
        pa = pytest.importorskip("pyarrow")
        data = pa.compress(data, "zstd", asbytes=True)
    elif suffix != ".tar":
        data = gzip.compress(data)
    path = tmp_path / f"00000{suffix}"
    path.write_bytes(data)
    source = WebDatasetSource(shards_uri=str(path))
    check_source(source)
    samples = {s.filename: s for s in listed(source, tmp_path)}
    assert {name: s.captions for name, s in samples.items() if s.flaw is None} == {
        f"{path.name}/{name}": WANTED[name] for name in WANTED if name != "below/c.d.png"
    }
    assert {name: s.flaw.reason for name, s in samples.items() if s.flaw} == {
        f"{path.name}/i": "missing_image",
        f"{path.name}/below/c": "missing_image",  # the first dot begins the extension, which is no image's
    }
    assert samples[f"{path.name}/a.jpg"].images.read("whatever") == b"image a"


@pytest.mark.parametrize("place", ["s", "s/*.tar", "s/0000{0..2}.tar"])
def test_many_tars_and_one_that_is_damaged(tmp_path, place):
    (tmp_path / "s").mkdir()
    for number in range(3):
        files = {f"{number}{k}.{e}": bytes([number]) * 9 for k in range(3) for e in ("jpg", "txt")}
        tar_of(tmp_path / f"s/0000{number}.tar", files)
    whole = (tmp_path / "s/00001.tar").read_bytes()
    source = WebDatasetSource(shards_uri=str(tmp_path / place))
    assert len(listed(source, tmp_path)) == 9
    before = source_fingerprint(source)
    (tmp_path / "s/00001.tar").write_bytes(whole[: 512 * 5 + 7])
    assert source_fingerprint(source) != before
    samples = listed(source, tmp_path)
    assert [s.filename for s in samples if s.flaw is None] == [
        *(f"00000.tar/0{k}.jpg" for k in range(3)),
        "00001.tar/10.jpg",
        *(f"00002.tar/2{k}.jpg" for k in range(3)),
    ]
    assert {s.filename: s.flaw.reason for s in samples if s.flaw} == {"00001.tar": "unreadable_file"}


HEADER_OF_THIRD = slice(512 * 8, 512 * 9)
"""Each sample is two members of a header and a block."""


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("damaged", "num_left"),
    [
        (lambda whole: whole[: 512 * 8 + 100], 1),  # within a header: the sample before it may have had more members
        (lambda whole: whole[: HEADER_OF_THIRD.start] + b"\xff" * 512 + whole[HEADER_OF_THIRD.stop :], 1),
        (lambda whole: whole[: 512 * 8], 2),  # between two members, without the end mark
    ],
)
def test_damage_that_looks_like_an_end_is_none(tmp_path, damaged, num_left, which):
    for number in range(2):
        files = {f"{number}{k}.{e}": bytes([number]) * 9 for k in range(3) for e in ("jpg", "txt")}
        tar_of(tmp_path / f"0000{number}.tar", files)
    broken = tmp_path / f"0000{which}.tar"
    broken.write_bytes(damaged(broken.read_bytes()))
    samples = listed(WebDatasetSource(shards_uri=str(tmp_path)), tmp_path)
    assert len([s for s in samples if s.flaw is None]) == 3 + num_left
    assert [(s.filename, s.flaw.reason) for s in samples if s.flaw] == [(broken.name, "unreadable_file")]


def test_a_first_tar_that_is_none_does_not_refuse_the_others(tmp_path):
    (tmp_path / "00000.tar").write_bytes(b"no tar at all" * 100)
    source = WebDatasetSource(shards_uri=str(tmp_path))
    (tmp_path / "00001.tar").write_bytes(b"")
    with pytest.raises(DataError, match="None of these 2 files is a tar"):
        check_source(source)
    tar_of(tmp_path / "00001.tar", {"a.jpg": b"image", "a.txt": b"a caption"})
    check_source(source)
    samples = listed(source, tmp_path)
    assert [(s.filename, s.flaw.reason if s.flaw else "") for s in samples] == [
        ("00000.tar", "unreadable_file"),
        ("00001.tar/a.jpg", ""),
    ]


def test_members_that_are_no_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("softalign.data.curation.webdataset.MAX_MEMBER_BYTES", 100)
    path = tar_of(tmp_path / "t.tar", {"big.jpg": b"x" * 101, "big.txt": b"a", "ok.jpg": b"x", "ok.cls": b"7"})
    with tarfile.open(path, "a") as tar:
        for name, kind in (("folder.jpg", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE), ("p.jpg", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    samples = listed(WebDatasetSource(shards_uri=str(path)), tmp_path)
    assert [(s.filename, s.flaw.reason if s.flaw else "") for s in samples] == [
        ("t.tar/big.jpg", "too_many_bytes"),
        ("t.tar/ok.jpg", ""),
    ]
    assert MAX_MEMBER_BYTES > 2**27


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\x1f\x8b\x08"])
def test_a_file_that_is_no_tar(tmp_path, content):
    (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(DataError, match="tar"):
        check_source(WebDatasetSource(shards_uri=str(tmp_path / "t.tar")))


def test_a_dataset_of_this_library_is_a_source_of_another(tmp_path, handover, configure, store):
    handover.add_pictures(6)
    first = curate(configure(handover.coco()), store, "first")
    for path in ("{000000..000001}.tar", "*.tar"):
        source = WebDatasetSource(shards_uri=f"{first.uri}/shard-{path}", caption_field="captions")
        config = CurationConfig(name="second", sources=(source,))
        second = curate(config, store, path)
        assert (second.num_samples, second.num_captions) == (first.num_samples, first.num_captions)


def test_a_folder_and_its_tar_become_the_same_samples(tmp_path, handover, configure, store):
    handover.add_pictures(4)
    for name, captions in handover.rows:
        (handover.images / name).with_suffix(".json").write_text(json.dumps({"caption": captions}))
    files = {path.name: path.read_bytes() for path in sorted(handover.images.iterdir())}
    tar = tar_of(tmp_path / "t.tar", files)
    folder = curate(configure(FolderSource(images_uri=str(handover.images))), store, "folder")
    tarred = curate(configure(WebDatasetSource(shards_uri=str(tar))), store, "tar")
    assert folder.num_samples == tarred.num_samples == 4
    assert folder.num_captions == tarred.num_captions == 8
