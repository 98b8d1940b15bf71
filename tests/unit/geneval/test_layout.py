"""Images of a set in the forms that people save them, and the names by which files speak of them."""

import json

import numpy as np
import pytest
from PIL import Image

from softalign.errors import DataError
from softalign.evaluation.suites import score_directory
from softalign.geneval.detections import Detection, write_detections
from softalign.geneval.image_faults import image_fault
from softalign.geneval.layout import read_folders, relative_names, write_metadata
from softalign.geneval.prompts import Clause, GenevalPrompt

PROMPT = GenevalPrompt(tag="own", include=(Clause(class_name="dog", count=1),), prompt="a dog")
SUFFIXES = ("png", "jpg", "jpeg", "webp")


@pytest.fixture
def root(tmp_path):
    """One prompt with an image of each form, too large to be suspected of being none."""
    write_metadata(tmp_path, (PROMPT,))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for index, suffix in enumerate(SUFFIXES):
        Image.fromarray(pixels).save(tmp_path / f"00000/samples/{index:05d}.{suffix}")
    return tmp_path


def score(root, **options):
    dog = Detection(class_name="dog", score=0.9, box=(0, 0, 1, 1))
    names = [str(path.relative_to(root)) for path in sorted(root.glob("*/samples/*"))]
    write_detections(root / "detections.jsonl", {name: [dog] for name in names})
    return score_directory(root, root / "detections.jsonl", root / "out", **options)


def test_every_form_of_image_is_scored(root):
    summary = score(root)
    assert (summary.num_images, summary.missing) == (4, ())
    rows = [json.loads(line) for line in (root / "out/results.jsonl").read_text().splitlines()]
    assert [row["filename"].rpartition(".")[2] for row in rows] == list(SUFFIXES)


@pytest.mark.parametrize("index", range(4))
def test_a_cut_image_of_any_form_is_named(root, index):
    path = root / f"00000/samples/{index:05d}.{SUFFIXES[index]}"
    assert image_fault(path) == ""
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=path.name):
        score(root)


def test_one_number_in_two_forms_is_named(root):
    (root / "00000/samples/00000.png").rename(root / "00000/samples/1.png")
    with pytest.raises(DataError, match=r"same number: 2 \(00000/samples/00001.jpg, 00000/samples/1.png\)"):
        score(root)


def test_names_lose_the_folder_in_front(root):
    own = "00000/samples/00000.png"
    names = [own, f"./{own}"]
    assert relative_names(names, "file") == dict.fromkeys(names, own)
    assert relative_names([f"/a/3/b/{own}", "x.png"], "file") == {f"/a/3/b/{own}": own, "x.png": "x.png"}
    assert read_folders(root)[0].filenames[0] == own
    with pytest.raises(DataError, match="several sets"):
        relative_names([own, f"a/{own}"], "file")
