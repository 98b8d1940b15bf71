"""How a dataset has its images: as they came or in one format, always under one extension that other readers know."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from pydantic import ValidationError

from softalign.config import CurationConfig, ShapesSource
from softalign.data.curation import images
from softalign.data.curation.hashing import perceptual_hash
from softalign.data.curation.images import UnreadableImageError, inspect_image
from softalign.data.curation.pipeline import curate
from softalign.data.curation.png_colour import matrix_profile
from softalign.data.curation.shards import read_index
from softalign.data.curation.transcoding import Transcoding, transcoding_of

MIXED = {"a.webp": {"lossless": True}, "b.png": {}, "c.jpg": {"quality": 95}, "d.png": {}, "e.jpg": {"quality": 95}}


@pytest.fixture
def mixed(handover, make_picture):
    for seed, (name, options) in enumerate(MIXED.items()):
        handover.add(name, [f"picture {seed}", f"again {seed}"], make_picture(seed), **options)
    return handover


def curated(config, store, **changes):
    return Path(curate(CurationConfig(**{**config.model_dump(), **changes}), store, "k").uri)


def images_of(root):
    rows = [row for path in sorted(root.glob("shard-*.parquet")) for row in read_index(path)]
    tars = b"".join(path.read_bytes() for path in sorted(root.glob("shard-*.tar")))
    return rows, tars


def test_mixed_files_are_kept_under_one_extension(mixed, store, configure):
    root = curated(configure(mixed.coco(), samples_per_shard=2), store)
    names = [name for path in sorted(root.glob("shard-*.tar")) for name in tarfile.open(path).getnames()]
    assert {name.partition(".")[2] for name in names} == {"webp", "json", "txt"}
    assert len(names) == 3 * len(MIXED)
    for path in sorted(root.glob("shard-*.tar")):
        for row in read_index(path.with_suffix(".parquet")):
            with tarfile.open(path) as tar:
                kept = tar.extractfile(f"{row.key}.{row.extension}").read()
            assert kept == (mixed.images / row.file_name).read_bytes()


@pytest.mark.parametrize("image_format", ["keep", "jpg", "png"])
def test_webdataset_decodes_every_image_and_has_its_captions(handover, make_picture, store, configure, image_format):
    for seed, name in enumerate(("a.jpg", "b.png", "c.webp", "d.jpg")):
        handover.add(name, [f"picture {seed} é", f"again {seed}"], make_picture(seed))
    root = curated(configure(handover.coco(), samples_per_shard=2), store, image_format=image_format)
    urls = [str(path) for path in sorted(root.glob("shard-*.tar"))]
    extension = "jpg" if image_format == "keep" else image_format
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple(extension, "txt", "json"))
    assert [(image.size, text) for image, text, _ in found] == [((48, 40), f"picture {n} é") for n in range(4)]
    assert [row["captions"] for _, _, row in found] == [[f"picture {n} é", f"again {n}"] for n in range(4)]


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets_reads_mixed_files(mixed, store, configure, tmp_path, streaming):
    datasets = pytest.importorskip("datasets")
    root = curated(configure(mixed.coco(), samples_per_shard=2), store)
    tars = [str(path) for path in sorted(root.glob("shard-*.tar"))]
    options = {} if streaming else {"cache_dir": str(tmp_path / "cache")}
    rows = list(datasets.load_dataset("webdataset", data_files=tars, split="train", streaming=streaming, **options))
    assert [row["txt"] for row in rows] == [f"picture {n}" for n in range(5)]
    assert [row["webp"].size for row in rows] == [(48, 40)] * 5
    assert [row["json"]["captions"] for row in rows] == [[f"picture {n}", f"again {n}"] for n in range(5)]


@pytest.mark.parametrize(("image_format", "most"), [("jpg", 40), ("png", 0), ("webp", 40)])
def test_transcoded_images_are_upright_in_srgb_and_plain(handover, make_picture, store, configure, image_format, most):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = matrix_profile(2.2, np.array([(0.3127, 0.329), (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)]))
    path = handover.add("a.png", ["turned and wide"], make_picture(1), exif=exif, icc_profile=wide)
    root = curated(configure(handover.coco()), store, image_format=image_format)
    (row,), tar = images_of(root)
    stored = tar[row.offset_bytes : row.offset_bytes + row.size_bytes]
    assert hashlib.sha256(stored).hexdigest() == row.image_digest
    assert (row.extension, row.width_px, row.height_px) == (image_format, 40, 48)
    with Image.open(io.BytesIO(stored)) as image:
        assert {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}[image.format] == image_format
        assert image_format != "jpg" or [part[1:3] for part in image.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0
        assert not image.getexif() and "icc_profile" not in image.info
        found = np.asarray(image.convert("RGB"), dtype=int)
    facts = inspect_image(path.read_bytes(), transcoding=Transcoding("png", 1))
    expected = np.asarray(Image.open(io.BytesIO(facts.stored)), dtype=int)
    assert np.abs(found - expected).max() <= most
    assert np.abs(np.asarray(make_picture(1).transpose(Image.Transpose.ROTATE_270), dtype=int) - expected).max() > 20


def test_a_lower_quality_takes_fewer_bytes(handover, store, configure, tmp_path):
    config = configure(handover.add_pictures(2).coco())
    sizes = []
    for quality in (None, 95, 30):
        root = curated(config, type(store)(str(tmp_path / str(quality))), image_format="webp", image_quality=quality)
        sizes.append(sum(row.size_bytes for row in images_of(root)[0]))
    assert sizes[0] == sizes[1] > sizes[2]


@pytest.mark.parametrize("image_format", ["keep", "png"])
def test_a_quality_without_effect_is_refused(image_format):
    with pytest.raises(ValidationError, match="it has no effect with image_format"):
        CurationConfig(name="x", sources=(ShapesSource(),), image_format=image_format, image_quality=90)


def test_an_image_that_a_format_cannot_hold_is_left_out():
    buffer = io.BytesIO()
    Image.new("L", (16_384, 2)).save(buffer, "PNG")
    with pytest.raises(UnreadableImageError, match="16383 px a side at most"):
        inspect_image(buffer.getvalue(), transcoding=Transcoding("webp", 90))
    assert inspect_image(buffer.getvalue(), transcoding=Transcoding("jpg", 90)).width_px == 16_384
    assert transcoding_of(CurationConfig(name="x", sources=(ShapesSource(),))) is None


def test_hashes_are_made_where_a_filter_asks_for_them_alone(handover, make_picture, store, configure, monkeypatch):
    hashed = []

    def spy(image):
        hashed.append(image.size)
        return perceptual_hash(image)

    monkeypatch.setattr(images, "perceptual_hash", spy)
    for seed in range(3):
        handover.add(f"{seed}.png", [f"picture {seed}"], make_picture(seed))
    without = curate(configure(handover.coco(), max_hash_distance=-1), store, "a")
    assert without.num_samples == 3 and hashed == []
    assert {row.perceptual_hash for row in read_index(Path(without.uri) / "shard-000000.parquet")} == {"0" * 64}
    assert curate(configure(handover.coco()), store, "b").num_samples == len(hashed) == 3


def test_animated_files_are_left_out_if_asked(handover, make_picture, store, configure, tmp_path):
    pictures = [make_picture(seed) for seed in range(4)]
    for name, save in (("a.webp", {"lossless": True}), ("b.png", {})):
        handover.add(
            name, [f"moving {name}"], pictures[len(name) % 2], save_all=True, append_images=pictures[2:], **save
        )
    handover.add("still.png", ["a still one"], make_picture(7))
    kept = curate(configure(handover.coco(), max_hash_distance=-1), store, "k")
    assert kept.num_samples == 3
    left = curate(configure(handover.coco(), drop_animated=True), type(store)(str(tmp_path / "other")), "k")
    assert [(entry.reason, entry.count) for entry in left.rejected] == [("animated", 2)]


def test_larger_images_are_reduced_to_the_shorter_side_and_none_is_enlarged(handover, make_picture, store, configure):
    exif = Image.Exif()
    exif[0x0112] = 6
    handover.add("wide.png", ["a wide one"], make_picture(1, 400, 200))
    handover.add("turned.jpg", ["a turned one"], make_picture(2, 300, 150), exif=exif)
    small = handover.add("small.png", ["a small one"], make_picture(3, 60, 48))
    root = curated(configure(handover.coco()), store, image_format="png", image_size_px=64)
    rows, tar = images_of(root)
    assert {row.file_name: (row.width_px, row.height_px) for row in rows} == {
        "wide.png": (128, 64),
        "turned.jpg": (64, 128),
        "small.png": (60, 48),
    }
    stored = {row.file_name: tar[row.offset_bytes : row.offset_bytes + row.size_bytes] for row in rows}
    reduced = {name: np.asarray(Image.open(io.BytesIO(data)), int) for name, data in stored.items()}
    assert (reduced["small.png"] == np.asarray(Image.open(small), int)).all()
    expected = make_picture(1, 400, 200).resize((128, 64), Image.Resampling.LANCZOS)
    assert np.abs(reduced["wide.png"] - np.asarray(expected, int)).max() <= 8
    upright = make_picture(2, 300, 150).transpose(Image.Transpose.ROTATE_270)
    expected = upright.resize((64, 128), Image.Resampling.LANCZOS)
    assert np.abs(reduced["turned.jpg"] - np.asarray(expected, int)).mean() <= 3  # of a JPEG file, decoded at a half


def test_a_size_is_refused_where_it_does_nothing_or_lets_nothing_through():
    with pytest.raises(ValidationError, match="no effect with image_format 'keep'"):
        CurationConfig(name="a", sources=(ShapesSource(),), image_size_px=64)
    with pytest.raises(ValidationError, match="no reduced image could pass"):
        CurationConfig(name="a", sources=(ShapesSource(),), image_format="jpg", image_size_px=31)
