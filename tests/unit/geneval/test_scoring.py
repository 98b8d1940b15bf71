import json

import pytest

from softalign.errors import DataError, MissingInputError
from softalign.geneval.detectors import Detection, write_detections
from softalign.geneval.layout import image_filename, write_metadata
from softalign.geneval.prompts import Clause, GenevalPrompt
from softalign.geneval.scoring import read_results, score_directory, summarize

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
        tag="colors", include=(Clause(class_name="dog", count=1, color="red"),), prompt="a photo of a red dog"
    ),
)
OFFICIAL_FIELDS = ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]


@pytest.fixture
def folder(tmp_path):
    """Three prompts of 1, 2 and 2 images; 1, 1 and 0 of them are right."""
    root = tmp_path / "images"
    write_metadata(root, PROMPTS)
    found = {(0, 0): [DOG], (1, 0): [DOG, DOG], (1, 1): [DOG], (2, 0): [], (2, 1): []}
    for place in found:
        (root / image_filename(*place)).write_bytes(b"")
    write_detections(tmp_path / "detections.jsonl", {image_filename(*place): d for place, d in found.items()})
    return tmp_path


def score(folder, **options):
    return score_directory(folder / "images", folder / "detections.jsonl", **options)


def drop_line(path, index):
    lines = path.read_text().splitlines(keepends=True)
    del lines[index]
    path.write_text("".join(lines))


def test_overall_is_the_mean_of_the_tags_not_of_the_images(folder):
    assert score(folder).to_json() == {
        "overall_score": pytest.approx((1.0 + 0.5 + 0.0) / 3),
        "tags": {
            "single_object": {"score": 1.0, "num_images": 1, "num_correct": 1},
            "counting": {"score": 0.5, "num_images": 2, "num_correct": 1},
            "colors": {"score": 0.0, "num_images": 2, "num_correct": 0},
        },
        "num_images": 5,
        "num_prompts_any_correct": 2,
    }


def test_results_have_the_official_fields(folder):
    score(folder)
    rows = [json.loads(line) for line in (folder / "images" / "results.jsonl").read_text().splitlines()]
    assert all(list(row) == OFFICIAL_FIELDS for row in rows)
    right, wrong = rows[0], rows[2]
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
    assert len(read_results(folder / expected)) == 5
    assert not (folder / "images" / "results.jsonl").exists()


def test_an_image_without_entry_is_refused(folder):
    drop_line(folder / "detections.jsonl", 1)
    with pytest.raises(DataError, match="no entry") as caught:
        score(folder)
    assert "00001/samples/0000.png" in caught.value.found
    assert not (folder / "images" / "results.jsonl").exists()


def test_an_entry_without_image_is_refused(folder):
    (folder / "images" / "00001/samples/0001.png").unlink()
    with pytest.raises(DataError, match="not there"):
        score(folder)


def test_a_colour_that_nobody_recorded_names_the_image(folder):
    plain = DOG.model_copy(update={"color": None})
    found = {image_filename(*place): [plain] for place in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]}
    write_detections(folder / "detections.jsonl", found)
    with pytest.raises(DataError) as caught:
        score(folder)
    assert caught.value.where == "00002/samples/0000.png"


def test_a_colour_outside_of_the_suite_names_the_image(folder):
    found = {image_filename(*place): [DOG] for place in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]}
    found["00001/samples/0001.png"] = [DOG.model_copy(update={"color": "Red"})]
    write_detections(folder / "detections.jsonl", found)
    with pytest.raises(DataError, match="unknown colour 'Red'") as caught:
        score(folder)
    assert caught.value.where.endswith("00001/samples/0001.png")


def test_a_folder_in_another_layout_is_refused(tmp_path):
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(MissingInputError, match="layout"):
            score_directory(root, tmp_path / "detections.jsonl")


@pytest.mark.parametrize("broken", ["metadata.jsonl", "samples/0000.png"])
def test_an_incomplete_prompt_folder_is_refused(folder, broken):
    (folder / "images" / "00000" / broken).unlink()
    with pytest.raises(DataError) as caught:
        score(folder)
    assert "00000" in str(caught.value)


def test_nothing_to_score_is_an_error():
    with pytest.raises(DataError):
        summarize([])


def test_a_damaged_results_file_names_the_line(folder):
    score(folder)
    path = folder / "images" / "results.jsonl"
    path.write_text(path.read_text().replace('"correct": false', '"correct": 7', 1))
    with pytest.raises(DataError) as caught:
        read_results(path)
    assert caught.value.where.endswith("line 3")
