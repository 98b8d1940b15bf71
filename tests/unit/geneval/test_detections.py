import json

import pytest

from softalign.errors import DataError, MissingInputError
from softalign.geneval.detections import Detection, read_detections, write_detections

CLASSES = {"dog", "computer mouse"}
GOOD = {"class": "dog", "score": 0.9, "box": [0, 0, 4, 5]}


def line(**changes):
    return json.dumps({"filename": "a.png", "detections": [{**GOOD, **changes}]})


def read(tmp_path, *lines):
    path = tmp_path / "detections.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return read_detections(path, CLASSES)


def test_written_detections_read_back_equal(tmp_path):
    recorded = {
        "b.png": (Detection(class_name="dog", score=0.97, box=(0, 0, 4.5, 5), color="red"),),
        "a.png": (),
    }
    write_detections(tmp_path / "d.jsonl", recorded)
    assert read_detections(tmp_path / "d.jsonl", CLASSES) == recorded


def test_coco_labels_become_geneval_names(tmp_path):
    assert read(tmp_path, line(**{"class": "mouse"}))["a.png"][0].class_name == "computer mouse"


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "3",
        json.dumps({"filename": "b.png"}),
        json.dumps({"filename": 3, "detections": []}),
        json.dumps({"filename": "b.png", "detections": 4}),
        line(score="high").replace("a.png", "b.png"),
        line(score=1.5).replace("a.png", "b.png"),
        line(box=[0, 0, 1]).replace("a.png", "b.png"),
        line(box=[5, 0, 1, 2]).replace("a.png", "b.png"),
        line(colour="red").replace("a.png", "b.png"),
        line(),  # the image of line 1 again
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, bad):
    with pytest.raises(DataError) as caught:
        read(tmp_path, line(), "", bad)
    assert caught.value.where.endswith("line 3")


def test_an_unknown_class_is_named(tmp_path):
    with pytest.raises(DataError, match="dragon"):
        read(tmp_path, line(**{"class": "dragon"}))


def test_a_missing_file_is_a_missing_input(tmp_path):
    with pytest.raises(MissingInputError):
        read_detections(tmp_path / "none.jsonl", CLASSES)
