"""Shards: deterministic bytes, readable by tar and webdataset, indexed to the byte."""

import hashlib
import json
import tarfile

import pytest
from pyarrow.parquet import read_schema

from softalign.data.curation.rejections import Rejection
from softalign.data.curation.samples import Sample, caption_digest
from softalign.data.curation.shards import read_index, read_rejections, shard_name, split_of, write_rejections
from softalign.data.curation.tars import ShardWriter, header_of


def samples(count):
    for number in range(count):
        image = bytes([number % 256]) * (700 + 300 * number)
        digest = hashlib.sha256(image).hexdigest()
        yield Sample("0-coco", f"{number}.jpg", (f"caption {number}", "é ü"), image, "jpg", digest, number, 64, 48)


def write(folder, count=5):
    folder.mkdir(exist_ok=True)
    writer = ShardWriter(folder, shard_name(0), val_share=0.5)
    for number, sample in enumerate(samples(count)):
        writer.add(sample, f"key-{number}")
    return writer, writer.close()


def test_the_same_samples_give_the_same_bytes(tmp_path):
    first, _ = write(tmp_path / "a")
    second, _ = write(tmp_path / "b")
    assert first.tar_path.read_bytes() == second.tar_path.read_bytes()
    assert first.index_path.read_bytes() == second.index_path.read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["shard-000000.parquet", "shard-000000.tar"]


def test_tar_members_carry_nothing_of_the_machine(tmp_path):
    writer, _ = write(tmp_path)
    with tarfile.open(writer.tar_path) as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert [m.name for m in members][:3] == ["key-0.jpg", "key-0.json", "key-0.txt"]


@pytest.mark.parametrize("name", ["a.jpg", "f" * 32 + "-12.json", "x" * 100, "y" * 90 + "/" + "z" * 90])
@pytest.mark.parametrize("size", [0, 511, 123_456, 8**11 - 1])
def test_a_header_is_tarfiles(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    assert header_of(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_the_index_finds_each_images_bytes(tmp_path):
    writer, rows = write(tmp_path)
    assert read_index(writer.index_path) == rows
    data = writer.tar_path.read_bytes()
    for row, sample in zip(rows, samples(5), strict=True):
        assert data[row.offset_bytes : row.offset_bytes + row.size_bytes] == sample.image
        assert row.image_digest == hashlib.sha256(sample.image).hexdigest()
        assert row.caption_digests == [caption_digest(caption) for caption in sample.captions]


def test_webdataset_reads_it(tmp_path):
    import webdataset

    writer, rows = write(tmp_path)
    found = list(webdataset.WebDataset(str(writer.tar_path), shardshuffle=False))
    assert [item["__key__"] for item in found] == [row.key for row in rows]
    metadata = json.loads(found[1]["json"])
    assert metadata["captions"] == ["caption 1", "é ü"]
    assert metadata["split"] == rows[1].split
    assert found[1]["txt"] == b"caption 1"
    assert found[1]["jpg"] == list(samples(2))[1].image


def test_the_split_is_by_content_and_stable_under_growth():
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]
    val = {share: {d for d in digests if split_of(d, share) == "val"} for share in (0.0, 0.05, 0.2)}
    assert val[0.0] == set()
    assert len(val[0.05]) / 4000 == pytest.approx(0.05, abs=0.015)
    assert len(val[0.2]) / 4000 == pytest.approx(0.2, abs=0.025)
    assert val[0.05] < val[0.2], "a larger share only adds images to the side"


def test_rejections_come_back(tmp_path):
    rejections = [Rejection("s", "a.png", "too_small", "3 px"), Rejection("s", "b.png", "caption_empty", "", 2)]
    write_rejections(tmp_path / "r.parquet", rejections)
    assert list(read_rejections(tmp_path / "r.parquet")) == rejections
    assert "caption" not in read_schema(tmp_path / "r.parquet").names  # as files without captions always were
    told = [*rejections, Rejection("s", "c.png", "caption_too_long", "9 characters", 0, "a dog")]
    write_rejections(tmp_path / "told.parquet", told)
    assert list(read_rejections(tmp_path / "told.parquet")) == told
    write_rejections(tmp_path / "none.parquet", [])
    assert list(read_rejections(tmp_path / "none.parquet")) == []
