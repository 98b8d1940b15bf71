import json

import numpy as np
import pytest

from softalign.errors import DataError, MissingInputError
from softalign.evaluation.suites import score_directory
from softalign.geneval.detection_forms import parse_detections
from softalign.geneval.detections import Detection, write_detections
from softalign.geneval.layout import image_filename, write_metadata
from softalign.geneval.prompts import Clause, GenevalPrompt, from_json_lines
from softalign.geneval.scoring import read_results, summarize
from softalign.sampling.sampling import png_bytes

DOG = Detection(class_name="dog", score=0.95, box=(1, 2, 3, 4), color="red")
PROMPTS = (
    GenevalPrompt(tag="single_object", include=(Clause(class_name="dog", count=1),), prompt="a photo of a dog"),
    GenevalPrompt(
        tag="counting",
        include=(Clause(class_name="dog", count=2),),
        exclude=(Clause(class_name="dog", count=3),),
        prompt="a photo of two dogs",
    ),
    GenevalPrompt(
        tag="counting",
        include=(Clause(class_name="dog", count=3),),
        exclude=(Clause(class_name="dog", count=4),),
        prompt="a photo of three dogs",
    ),
    GenevalPrompt(
        tag="colors", include=(Clause(class_name="dog", count=1, color="red"),), prompt="a photo of a red dog"
    ),
)
PNG = png_bytes(np.full((8, 8, 3), 127, np.uint8))
OFFICIAL_FIELDS = ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]


FOUND = {
    **{(0, 0): [DOG], (0, 1): [DOG], (1, 0): [DOG, DOG], (1, 1): [DOG]},
    **{(2, 0): [DOG, DOG], (2, 1): [], (3, 0): [], (3, 1): []},
}
"""Right of each tag: 2 of 2, 1 of 4, 0 of 2."""


@pytest.fixture
def folder(tmp_path):
    """Four prompts of two images each."""
    root = tmp_path / "images"
    write_metadata(root, PROMPTS)
    for place in FOUND:
        (root / image_filename(*place)).write_bytes(PNG)
    write_detections(tmp_path / "detections.jsonl", {image_filename(*place): d for place, d in FOUND.items()})
    return tmp_path


def score(folder, **options):
    return score_directory(folder / "images", folder / "detections.jsonl", **options)


def test_overall_is_the_mean_of_the_tags_not_of_the_images(folder):
    assert score(folder).to_json() == {
        "overall_score": pytest.approx((1.0 + 0.25 + 0.0) / 3),
        "tags": {
            "single_object": {"score": 1.0, "num_images": 2, "num_correct": 2},
            "counting": {"score": 0.25, "num_images": 4, "num_correct": 1},
            "colors": {"score": 0.0, "num_images": 2, "num_correct": 0},
        },
        "num_images": 8,
        "num_prompts_any_correct": 2,
        "missing": [],
        "detector": "",
    }


def test_results_have_the_official_fields(folder):
    score(folder)
    rows = [json.loads(line) for line in (folder / "images" / "results.jsonl").read_text().splitlines()]
    assert all(list(row) == OFFICIAL_FIELDS for row in rows)
    right, wrong = rows[0], rows[3]
    assert right["filename"] == "00000/samples/0000.png"
    assert right["correct"] is True
    assert right["reason"] == ""
    assert json.loads(right["details"]) == {"dog": [[1, 2, 3, 4, 0.95]]}
    assert json.loads(wrong["metadata"])["exclude"] == [{"class": "dog", "count": 3}]
    assert wrong["correct"] is False
    assert wrong["reason"] == "Expected at least 2 dog, found 1."


@pytest.mark.parametrize(("out", "expected"), [("elsewhere", "elsewhere/results.jsonl"), ("a/b.jsonl", "a/b.jsonl")])
def test_results_go_where_they_are_wanted(folder, out, expected):
    score(folder, out=folder / out)
    assert len(read_results(folder / expected)) == 8
    assert not (folder / "images" / "results.jsonl").exists()


def test_a_colour_that_nobody_recorded_names_the_image(folder):
    plain = DOG.model_copy(update={"color": None})
    found = {image_filename(*place): [plain] for place in FOUND}
    write_detections(folder / "detections.jsonl", found)
    with pytest.raises(DataError) as caught:
        score(folder)
    assert caught.value.where == "00003/samples/0000.png"


def test_a_colour_outside_of_the_suite_names_the_image(folder):
    found = {image_filename(*place): [DOG] for place in FOUND}
    found["00001/samples/0001.png"] = [DOG.model_copy(update={"color": "Red"})]
    write_detections(folder / "detections.jsonl", found)
    with pytest.raises(DataError, match="unknown colour 'Red'") as caught:
        score(folder)
    assert caught.value.where.endswith("00001/samples/0001.png")


def test_a_folder_in_another_layout_is_refused(tmp_path):
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(MissingInputError, match="layout"):
            score_directory(root, tmp_path / "detections.jsonl")


def test_nothing_to_score_is_an_error():
    with pytest.raises(DataError):
        summarize([])


def test_a_damaged_results_file_names_the_line(folder):
    score(folder)
    path = folder / "images" / "results.jsonl"
    path.write_text(path.read_text().replace('"correct": false', '"correct": 7', 1))
    with pytest.raises(DataError) as caught:
        read_results(path)
    assert caught.value.where.endswith("line 4")


def test_texts_may_hold_what_python_breaks_lines_at(tmp_path):
    row = {"tag": "mine", "include": [{"class": "dog", "count": 1}], "prompt": "one\u2028two\u0085three"}
    suite = json.dumps(row, ensure_ascii=False) + "\r\n"
    assert [prompt.prompt for prompt in from_json_lines(suite * 2, "suite")] == ["one\u2028two\u0085three"] * 2
    found = json.dumps({"filename": "one\u2028.png", "detections": []}, ensure_ascii=False) + "\n"
    assert [image.filename for image in parse_detections(found * 2, "found").rows] == ["one\u2028.png"] * 2


def test_results_that_are_no_text_are_named(tmp_path):
    (tmp_path / "results.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"(?s)UTF-8.*results\.jsonl"):
        read_results(tmp_path / "results.jsonl")
