"""Distances of folders: named after whose features they are, from folders and files, damaged images refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil
from typer.testing import CliRunner

from softalign.cli.options import app
from softalign.errors import CompatibilityError, ConfigError, DataError, MissingInputError
from softalign.evaluation import set_distances
from softalign.geneval.layout import image_filename, write_metadata
from softalign.geneval.prompts import official_prompts
from softalign.metrics import reference
from softalign.metrics.features import load_features
from softalign.store.files import sha256_of_file
from tests.random_inception import random_state
from tests.tiny_detector import CLIP_SIDE_PX, build_clip
from tests.tiny_judge import some_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "clip"
    for part in build_clip():
        part.save_pretrained(folder)
    side = dict(height=CLIP_SIDE_PX, width=CLIP_SIDE_PX)
    CLIPImageProcessorPil(size=dict(shortest_edge=CLIP_SIDE_PX), crop_size=side).save_pretrained(folder)
    return folder


@pytest.fixture
def folders(tmp_path):
    """A set in GenEval's layout with a sheet beside its images, and a folder of others."""
    images = some_images(8)
    write_metadata(tmp_path / "set", official_prompts()[:2])
    for place in range(4):
        Image.fromarray(images[place]).save(tmp_path / "set" / image_filename(place // 2, place % 2))
    Image.new("RGB", (9, 9)).save(tmp_path / "set/00000/grid.png")
    (tmp_path / "others/below").mkdir(parents=True)
    for place in range(4, 8):
        Image.fromarray(images[place]).save(tmp_path / f"others/below/{place}.webp", lossless=True)
    return tmp_path / "set", tmp_path / "others"


def distance(*arguments):
    return CliRunner().invoke(app, ["geneval", "distance", *map(str, arguments)], catch_exceptions=False)


def test_a_models_distances_are_named_after_it_and_need_no_folder_twice(folders, clip, tmp_path):
    kept = tmp_path / "kept.npz"
    shown = json.loads(distance(*folders[:1], "--reference", folders[1], "--features", clip, "--json").stdout)
    assert list(shown["distances"]) == [f"frechet_distance[{clip}]", f"kernel_distance[{clip}]"]
    assert (shown["num_images"], shown["num_reference_images"]) == (4, 4)  # without the sheet
    distance(folders[1], "--reference", folders[0], "--features", clip, "--save-statistics", kept)
    again = json.loads(distance(folders[0], "--reference", kept, "--features", clip, "--json").stdout)
    assert again["distances"] == pytest.approx(shown["distances"])
    alone = tmp_path / "alone.npz"
    with np.load(kept) as stored:
        np.savez(alone, mu=stored["mu"], sigma=stored["sigma"])
    text = distance(folders[0], "--reference", alone, "--features", clip).stdout
    assert "kernel_distance" not in text and f"from an unknown number of {alone}, " in text
    assert "fewer images than features" in text


def test_statistics_are_written_without_a_reference_and_nothing_at_all_is_refused(folders, clip, tmp_path):
    kept = tmp_path / "kept.npz"
    said = json.loads(distance(folders[1], "--features", clip, "--save-statistics", kept, "--json").stdout)
    assert said == {"statistics": str(kept), "num_images": 4}
    shown = json.loads(distance(folders[0], "--reference", kept, "--features", clip, "--json").stdout)
    whole = json.loads(distance(folders[0], "--reference", folders[1], "--features", clip, "--json").stdout)
    assert shown["distances"] == pytest.approx(whole["distances"])
    with pytest.raises(ConfigError, match="nothing to do"):
        distance(folders[0], "--features", clip)


def test_a_set_is_at_no_distance_from_itself(folders, clip):
    found = json.loads(distance(folders[0], "--reference", folders[0], "--features", clip, "--json").stdout)
    assert found["distances"][f"frechet_distance[{clip}]"] == pytest.approx(0.0, abs=1e-4)


def test_only_the_published_weights_are_called_fid(folders, tmp_path, monkeypatch):
    weights = tmp_path / "own.pth"
    torch.save(random_state(), weights)
    monkeypatch.setattr(
        set_distances,
        "_statistics",
        lambda root, extract: set_distances.statistics_of(np.eye(3, dtype=np.float32), extract.maker),
    )
    shown = json.loads(distance(folders[0], "--reference", folders[1], "--features", weights, "--json").stdout)
    assert list(shown["distances"]) == ["frechet_distance[inception:own.pth]", "kernel_distance[inception:own.pth]"]
    monkeypatch.setattr(reference, "OFFICIAL_INCEPTION_SHA256", sha256_of_file(weights)[:8])
    shown = json.loads(distance(folders[0], "--reference", folders[1], "--features", weights, "--json").stdout)
    assert list(shown["distances"]) == ["fid", "kid"]


class Hostile:
    def __reduce__(self):
        return print, ("it ran",)


def test_weights_that_do_more_than_hold_tensors_are_refused(tmp_path, capfd):
    for name, content in (("hostile.pth", Hostile()), ("short.pth", {"fc.weight": torch.zeros(1)})):
        torch.save(content, tmp_path / name)
        with pytest.raises(CompatibilityError, match="Inception network cannot be loaded"):
            load_features(str(tmp_path / name), CPU)
    assert "it ran" not in capfd.readouterr().out
    with pytest.raises(MissingInputError, match="no such file of Inception"):
        load_features(str(tmp_path / "none.pth"), CPU)
    with pytest.raises(MissingInputError, match="no such model of the features"):
        load_features(str(tmp_path / "none"), CPU)


def test_a_models_features_are_its_pooled_output(clip):
    found = load_features(str(clip), CPU)(some_images(2))
    model = build_clip()[0]
    for image, row in zip(some_images(2), found, strict=True):
        processor = CLIPImageProcessorPil.from_pretrained(clip)
        with torch.inference_mode():
            expected = model.get_image_features(**processor(Image.fromarray(image), return_tensors="pt")).pooler_output
        assert row == pytest.approx(expected[0].numpy(), abs=1e-5)


def test_statistics_of_other_features_are_refused(folders, clip, tmp_path):
    kept = tmp_path / "kept.npz"
    distance(folders[1], "--reference", folders[0], "--features", clip, "--save-statistics", kept)
    with np.load(kept) as stored:
        arrays = dict(stored)
    np.savez(kept, **(arrays | {"features_of": "another"}))
    with pytest.raises(CompatibilityError, match="another model's"):
        distance(folders[0], "--reference", kept, "--features", clip)
    np.savez(kept, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(CompatibilityError, match="3 of them"):
        distance(folders[0], "--reference", kept, "--features", clip)


def test_damaged_and_missing_images_are_named(folders, clip, tmp_path):
    (folders[1] / "below/5.webp").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)1 of 4.*5\.webp: 0 bytes"):
        distance(folders[0], "--reference", folders[1], "--features", clip)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInputError, match="There are no images"):
        distance(folders[0], "--reference", tmp_path / "empty", "--features", clip)
    with pytest.raises(ConfigError, match=r"suffix \.npz"):
        distance(folders[0], "--reference", folders[0], "--features", clip, "--save-statistics", tmp_path / "x.txt")
