"""The forms in which people keep detections say the same as ours."""

import json

import numpy as np
import pytest

from softalign.errors import DataError
from softalign.geneval.detections import Detection, read_detections
from softalign.geneval.prompts import CLASSES

DOG = Detection(class_name="dog", score=0.9, box=(1, 2, 11, 22))
REMOTE = Detection(class_name="tv remote", score=0.5, box=(0, 0, 4, 5))
FIRST, SECOND = "00000/samples/0000.png", "00000/samples/0001.png"
EXPECTED = {FIRST: (DOG, REMOTE), SECOND: ()}
OURS = [
    {"class": "dog", "score": 0.9, "box": [1, 2, 11, 22]},
    {"class": "remote", "score": 0.5, "box": [0, 0, 4, 5]},
]
BY_CLASS = {"dog": [[1, 2, 11, 22, 0.9]], "tv remote": [[0, 0, 4, 5, 0.5]], "cat": []}
COCO = [
    {"image_id": FIRST, "category_id": 18, "bbox": [1, 2, 10, 20], "score": 0.9},
    {"image_id": FIRST, "category_id": 75, "bbox": [0, 0, 4, 5], "score": 0.5},
    {"image_id": SECOND, "category_id": 90, "bbox": [0, 0, 4, 5], "score": 0.1},
]


def images(first, second=()):
    return [{"filename": FIRST, "detections": first}, {"filename": SECOND, "detections": list(second)}]


def lines(rows):
    return "".join(json.dumps(row) + "\r\n" for row in rows)


def read(tmp_path, text, classes=CLASSES):
    path = tmp_path / "detections.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8", newline="")
    return read_detections(path, classes)


FORMS = {
    "lines": lines(images(OURS)),
    "lines of an editor on Windows": "\ufeff" + lines(images(OURS)),
    "one array": images(OURS),
    "an indented array": json.dumps(images(OURS), indent=2),
    "lines grouped by class": lines(images(BY_CLASS)),
    "an object grouped by class": {FIRST: BY_CLASS, SECOND: {}},
    "an object": {FIRST: OURS, SECOND: []},
    "side by side": {
        FIRST: {"labels": [16, 65], "scores": [0.9, 0.5], "bboxes": [[1, 2, 11, 22], [0, 0, 4, 5]]},
        SECOND: {"labels": [0], "scores": [0.1], "boxes": [[0, 0, 1, 1]]},
    },
    "transformers": images(
        [
            {"label": "dog", "score": 0.9, "box": {"xmin": 1, "ymin": 2, "xmax": 11, "ymax": 22}},
            {"label": "Remote", "score": 0.5, "box": [0, 0, 4, 5, 0.5]},
        ]
    ),
    "extra keys": images([{**row, "mask": {"size": [8, 8], "counts": "abc"}, "area": 9, "id": 4} for row in OURS]),
    "a folder in front": [
        {**row, "filename": f"D:\\sets\\sdxl\\{row['filename']}".replace("/", "\\")} for row in images(OURS)
    ],
    "COCO with images": {
        "images": [{"id": 7, "file_name": FIRST}, {"id": 8, "file_name": SECOND}],
        "annotations": [{**row, "image_id": 7} for row in COCO[:2]],
        "categories": [{"id": 18, "name": "dog"}, {"id": 75, "name": "remote"}],
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(tmp_path, form):
    found = read(tmp_path, FORMS[form])
    if form == "side by side":
        found[SECOND] = ()  # its person is what makes the numbering certain
    assert found == EXPECTED


@pytest.mark.parametrize(
    ("numbers", "others"), [((18, 75), (90,)), ((16, 65), (0,)), ((17, 66), (80, 12))], ids=["1..90", "0..79", "1..80"]
)
def test_coco_results_are_read_in_the_numbering_that_fits(tmp_path, numbers, others):
    rows = [{**row, "category_id": number} for row, number in zip(COCO, numbers, strict=False)]
    rows += [{**COCO[2], "category_id": number} for number in others]
    assert read(tmp_path, rows)[FIRST] == EXPECTED[FIRST]


def test_numbers_that_fit_several_numberings_are_refused(tmp_path):
    with pytest.raises(DataError, match="categories"):
        read(tmp_path, COCO[:1])


def test_an_image_number_without_a_name_is_refused(tmp_path):
    with pytest.raises(DataError, match="file_name") as caught:
        read(tmp_path, [{**COCO[0], "image_id": 7}])
    assert caught.value.where.endswith("entry 1")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        *[
            ("aeroplane", "airplane"),
            ("diningtable", "dining table"),
            ("pottedplant", "potted plant"),
            ("sofa", "couch"),
        ],
        *[("motorbike", "motorcycle"), ("tvmonitor", "tv"), ("mouse", "computer mouse"), ("TV Remote", "tv remote")],
        *[("keyboard", "computer keyboard"), ("dining_table", "dining table"), ("hair-dryer", "hair drier")],
    ],
)
def test_labels_of_coco_and_voc_become_our_names(tmp_path, label, name):
    found = read(tmp_path, images([{**OURS[0], "class": label}]))
    assert found[FIRST][0].class_name == name


def test_a_name_of_the_suite_stays_itself(tmp_path):
    found = read(tmp_path, images([{**OURS[0], "class": "mouse"}]), {*CLASSES, "mouse"})
    assert found[FIRST][0].class_name == "mouse"


def test_all_unknown_names_are_listed_with_the_nearest(tmp_path):
    rows = [{**OURS[0], "class": name} for name in ("giraff", "lampshade", "dog", "umbrela", "giraff")]
    with pytest.raises(DataError, match="unknown classes: 3") as caught:
        read(tmp_path, images(rows[:2], rows[2:]))
    assert caught.value.found == "giraff (nearest: giraffe); lampshade; umbrela (nearest: umbrella)"


@pytest.mark.parametrize("score", [1 + 1e-6, 1.0])
def test_a_score_of_one_and_its_rounding_is_one(tmp_path, score):
    assert read(tmp_path, images([{**OURS[0], "score": score}]))[FIRST][0].score == 1.0


@pytest.mark.parametrize(
    "changes",
    [
        *[{"score": 1.00001}, {"score": 95.0}, {"score": float("nan")}, {"score": -0.1}, {"score": None}],
        *[{"box": [float("nan")] * 4}, {"box": [1, 2, 3, 4, 0.5]}, {"class": True}, {"class": ["dog"]}],
        *[{"bbox": [1, 2, 3, 4]}, {"colour": "red"}],
    ],
)
def test_what_is_no_detection_names_its_line(tmp_path, changes):
    with pytest.raises(DataError, match="malformed") as caught:
        read(tmp_path, lines(images([], [{**OURS[0], **changes}])))
    assert caught.value.where.endswith("line 2")


@pytest.mark.parametrize(
    "text",
    [
        '[{"filename": "a"',
        "[3]",
        '{"a": 3}',
        '{"annotations": 3}',
        '{"annotations": [3]}',
        '{"annotations": [], "images": [{"id": 1}]}',
    ],
)
def test_other_documents_are_refused(tmp_path, text):
    with pytest.raises(DataError):
        read(tmp_path, text)


def test_names_of_several_sets_are_refused(tmp_path):
    rows = [{"filename": f"{place}/{FIRST}", "detections": []} for place in ("sd15", "sdxl")]
    with pytest.raises(DataError, match="several sets"):
        read(tmp_path, rows)


def packed(counts):
    """Return run lengths as COCO's strings: differences from the fourth on, five bits a character, sign extended."""
    text = ""
    for index, count in enumerate(counts):
        left = count - counts[index - 2] if index > 2 else count
        while True:
            bits, left = left & 31, left >> 5
            is_last = left == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if is_last else 32))
            if is_last:
                break
    return text


def runs_of(mask):
    flat = mask.T.ravel().tolist()
    counts, value = [0], 0
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def test_masks_become_boxes(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(3, 90, size=2)
        mask = (rng.random((height, width)) < rng.choice([0.01, 0.5, 0.999])).astype(int)
        mask[rng.integers(height), rng.integers(width)] = 1
        ys, xs = np.nonzero(mask)
        counts = runs_of(mask)
        for form in (counts, packed(counts)):
            entry = {"class": "dog", "score": 0.9, "mask": {"size": [int(height), int(width)], "counts": form}}
            box = read(tmp_path, images([entry]))[FIRST][0].box
            assert box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_polygons_become_boxes_and_other_masks_are_named(tmp_path):
    entry = {"class": "dog", "score": 0.9, "segmentation": [[1, 2, 11, 2, 11, 9], [3, 9, 4, 22, 5, 9]]}
    assert read(tmp_path, images([entry]))[FIRST] == (DOG,)
    for mask in ([[0, 1, 0, 1, 1, 0]] * 4, {"size": [4, 4], "counts": [16]}, "mask.png"):
        with pytest.raises(DataError, match=r"mask"):
            read(tmp_path, images([{"class": "dog", "score": 0.9, "mask": mask}]))
