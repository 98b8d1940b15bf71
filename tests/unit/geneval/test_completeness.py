"""A set is scored only if nothing is missing, or if the caller knows what is."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from softalign.cli import app
from softalign.errors import DataError
from softalign.evaluation import arms
from softalign.evaluation.suites import score_directory
from softalign.geneval.completeness import Suite, image_fault, inspect_set
from softalign.geneval.detections import Detection, write_detections
from softalign.geneval.layout import image_filename, read_folders, write_metadata
from softalign.geneval.prompts import TAGS, Clause, GenevalPrompt, official_prompts
from softalign.sampling.sampling import png_bytes

PNG = png_bytes(np.full((8, 8, 3), 127, np.uint8))
DOG = Detection(class_name="dog", score=0.95, box=(1, 2, 3, 4))
OWN = tuple(
    GenevalPrompt(tag=tag, include=(Clause(class_name="dog", count=count),), prompt=f"{count} dogs, {tag}")
    for tag, count in (("single_object", 7), ("counting", 8), ("counting", 9), ("two_object", 10))
)
"""A suite of somebody's own: none of it is official."""
OFFICIAL = official_prompts()


def make_set(root, prompts, num_images=4):
    write_metadata(root, prompts)
    for index in range(len(prompts)):
        for image in range(num_images):
            (root / image_filename(index, image)).write_bytes(PNG)
    return root


@pytest.fixture
def own(tmp_path):
    """A complete set of somebody's own suite, with detections beside it."""
    root = make_set(tmp_path / "images", OWN)
    found = {image_filename(index, image): [DOG] for index in range(len(OWN)) for image in range(4)}
    write_detections(tmp_path / "detections.jsonl", found)
    return root


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The official set; read only."""
    return make_set(tmp_path_factory.mktemp("official"), OFFICIAL)


def score(root, **options):
    return score_directory(root, root.parent / "detections.jsonl", **options)


def lacks(root, folders=None, suite=None):
    found = inspect_set(root, read_folders(root) if folders is None else folders, suite)
    return {lack.kind: (lack.count, lack.names) for lack in found.lacks}


def test_a_complete_set_lacks_nothing(own, official):
    assert score(own).missing == ()
    assert lacks(own) == lacks(official) == {}


def edit_lines(root, change):
    path = root.parent / "detections.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def rename(line):
    return line.replace("00001/samples/0000.png", "00001/samples/0004.png")


def remove_samples(root):
    for path in (root / "00003" / "samples").iterdir():
        path.unlink()


DAMAGES = {
    "images": (lambda r: (r / "00001/samples/0003.png").unlink(), 1, "00001/samples: 3 of 4"),
    "all images": (remove_samples, 4, "00003/samples: 0 of 4"),
    "no samples": (lambda r: shutil.rmtree(r / "00003/samples"), 4, "00003/samples: 0 of 4"),
    "extra_images": (lambda r: (r / "00000/samples/0004.png").write_bytes(PNG), 1, "00000/samples: 5 of 4"),
    "double_images": (lambda r: (r / "00000/samples/0003.png").rename(r / "00000/samples/002.png"), 2, "002.png"),
    "other_images": (
        lambda r: (r / "00000/samples/0003.png").rename(r / "00000/samples/0003.bmp"),
        1,
        "00000/samples/0003.bmp",
    ),
    "zero bytes": (lambda r: (r / "00002/samples/0001.png").write_bytes(b""), 1, "00002/samples/0001.png: 0 bytes"),
    "text": (lambda r: (r / "00002/samples/0001.png").write_text("a dog"), 1, "00002/samples/0001.png: no image"),
    "cut": (lambda r: (r / "00002/samples/0001.png").write_bytes(PNG[:-13]), 1, "00002/samples/0001.png: "),
    "metadata": (lambda r: (r / "00002/metadata.jsonl").unlink(), 1, "00002"),
    "folders": (lambda r: shutil.rmtree(r / "00001"), 1, "00001"),
    "double_folders": (lambda r: shutil.copytree(r / "00003", r / "3"), 2, "00003"),
    "unnumbered_folders": (lambda r: shutil.copytree(r / "00003", r / "00003 (copy)"), 1, "00003 (copy)"),
    "detections": (lambda r: edit_lines(r, lambda lines: lines[:2] + lines[3:]), 1, "00000/samples/0002.png"),
    "extra_detections": (lambda r: edit_lines(r, lambda lines: map(rename, lines)), 1, "00001/samples/0004.png"),
}
KINDS = {
    "all images": "images",
    "no samples": "images",
    **dict.fromkeys(("zero bytes", "text", "cut"), "unreadable_images"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_an_incomplete_set_is_refused_unless_allowed_and_then_says_what_is_missing(own, case):
    damage, count, name = DAMAGES[case]
    damage(own)
    with pytest.raises(DataError, match=r"(?s)not complete.*--allow-partial") as caught:
        score(own)
    assert name in caught.value.found
    assert not (own / "results.jsonl").exists()
    summary = score(own, is_partial_allowed=True)
    lack = next(lack for lack in summary.missing if lack.kind == KINDS.get(case, case))
    assert lack.count == count
    assert any(name in shown for shown in lack.names)
    assert lack.to_text() in summary.to_text()
    filenames = [json.loads(line)["filename"] for line in (own / "results.jsonl").read_text().splitlines()]
    assert len(filenames) == summary.num_images
    assert not any(image_fault(own / filename) for filename in filenames)


def test_a_tag_without_images_is_named(own):
    remove_samples(own)
    assert lacks(own)["tags"] == (1, ("two_object",))


def test_nothing_that_can_be_scored_is_an_error_even_if_allowed(own):
    edit_lines(own, lambda _lines: [])
    with pytest.raises(DataError, match="no images"):
        score(own, is_partial_allowed=True)


def test_far_apart_numbers_are_one_gap(own):
    (own / "00003").rename(own / "20240101")
    assert lacks(own)["folders"] == (20_240_098, ("00003 to 20240100",))


def test_files_beside_the_images_do_not_matter(own):
    for name in ("grid.png", "00000_up.png", ".DS_Store", "Thumbs.db"):
        (own / "00000/samples" / name).write_bytes(b"")
    (own / "grids").mkdir()
    (own / "00000/grid.png").write_bytes(b"")
    assert score(own).missing == ()


@pytest.mark.parametrize("num_images", [1, 3, 5])
def test_a_suite_of_ones_own_has_as_many_images_as_it_has(tmp_path, num_images):
    assert lacks(make_set(tmp_path, OWN, num_images)) == {}


def test_a_part_of_the_official_prompts_is_not_the_official_set(official):
    folders = read_folders(official)
    assert lacks(official, folders[:-9])["prompts"] == (9, tuple(prompt.prompt for prompt in OFFICIAL[-9:]))
    assert lacks(official, folders[:1])["prompts"][0] == 552
    only_objects = [folder for folder in folders if folder.prompt.tag == "single_object"]
    assert lacks(official, only_objects)["tags"] == (5, TAGS[1:])


def test_official_prompts_in_other_words_are_official(official):
    folders = [reworded(folder, f"{folder.prompt.prompt}, highly detailed") for folder in read_folders(official)]
    assert lacks(official, folders) == {}
    assert lacks(official, folders[1:])["prompts"] == (1, (OFFICIAL[0].prompt,))


def reworded(folder, text):
    return type(folder)(folder.name, folder.prompt.model_copy(update={"prompt": text}), folder.filenames)


def test_a_prompt_beside_the_official_ones_or_twice_is_named(official):
    folders = read_folders(official)
    strange = type(folders[0])("00553", OWN[0], folders[0].filenames)
    assert lacks(official, [*folders, strange])["extra_prompts"] == (1, (f"00553: {OWN[0].prompt}",))
    again = type(folders[0])("00553", folders[7].prompt, folders[7].filenames)
    assert lacks(official, [*folders, again])["double_prompts"] == (1, (f"00553: {OFFICIAL[7].prompt}",))


@pytest.mark.parametrize(("num_images", "num_missing"), [(3, 553), (5, 0)])
def test_the_official_set_has_at_least_four_images_a_prompt(official, num_images, num_missing):
    folders = [
        type(folder)(folder.name, folder.prompt, (*folder.filenames, f"{folder.name}/samples/0004.png")[:num_images])
        for folder in read_folders(official)
    ]
    assert lacks(official, folders).get("images", (0,))[0] == num_missing


def test_a_custom_suite_may_hold_official_prompts(tmp_path):
    assert lacks(make_set(tmp_path, (*OWN, *OFFICIAL[:20]))) == {}


@pytest.mark.parametrize("missing", ["prompt", "image"])
def test_an_evaluation_refuses_an_arm_that_lacks_something(own, missing):
    suite = Suite(OWN, 4)
    (own / "00003/samples/0003.png").unlink()
    if missing == "prompt":
        shutil.rmtree(own / "00003")
    assert lacks(own, suite=suite)["prompts" if missing == "prompt" else "images"][0] == 1
    with pytest.raises(DataError, match="run the evaluation again"):
        arms.detect_and_score(own, suite, lambda _images: pytest.fail("was detected"), own.parent)


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "GIF"])
def test_an_image_of_another_format_named_png_is_one(tmp_path, format_):
    path = tmp_path / "0000.png"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    image.save(path, format_)
    assert image_fault(path) == ""
    path.write_bytes(path.read_bytes()[:-1000])
    assert image_fault(path).startswith("damaged: ")


def test_every_cut_and_every_changed_byte_of_a_tiny_png_is_noticed(tmp_path):
    path = tmp_path / "0000.png"
    for size in range(len(PNG) - 4):  # the last four are the checksum of nothing
        path.write_bytes(PNG[:size])
        assert image_fault(path), size
    for place in range(len(PNG) - 12):
        path.write_bytes(PNG[:place] + bytes([PNG[place] ^ 1]) + PNG[place + 1 :])
        assert image_fault(path), place


def test_every_cut_of_a_picture_is_noticed_and_bytes_behind_it_do_no_harm(tmp_path):
    path = tmp_path / "0000.png"
    picture = png_bytes(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for size in (*range(0, len(picture) - 12, 97), *range(len(picture) - 30, len(picture) - 4)):
        path.write_bytes(picture[:size])
        assert image_fault(path), size
    for behind in (b"", b"more"):
        path.write_bytes(picture + behind)
        assert image_fault(path) == ""


def test_a_png_without_pixels_is_damaged(tmp_path):
    path = tmp_path / "0000.png"
    start = PNG.index(b"IDAT") - 4
    path.write_bytes(PNG[:start] + PNG[-12:])
    assert image_fault(path).startswith("damaged: ")


def test_links_and_folders_in_an_images_place_are_faults(tmp_path):
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.png").mkdir()
    assert image_fault(tmp_path / "dangling.png") == "No such file or directory"
    assert image_fault(tmp_path / "folder.png") == "Is a directory"


def test_the_command(own, monkeypatch, capsys):
    (own / "00001/samples/0003.png").write_bytes(b"")
    command = ["softalign", "geneval", "score", str(own), "--detections", str(own.parent / "detections.jsonl")]

    def run(*options):
        monkeypatch.setattr(sys, "argv", [*command, *options])
        with pytest.raises(SystemExit) as stop:
            app.main()
        shown = capsys.readouterr()
        return stop.value.code or 0, shown.out, shown.err

    code, out, err = run("--json")
    assert (code, out) == (1, "")
    assert "images that cannot be read: 1 (00001/samples/0003.png: 0 bytes)" in err
    code, out, _ = run("--allow-partial")
    assert code == 0
    assert "  images that cannot be read: 1 (00001/samples/0003.png: 0 bytes)" in out.splitlines()
    code, out, _ = run("--allow-partial", "--json")
    shown = json.loads(out)
    assert (code, shown["num_images"]) == (0, 15)
    assert shown["missing"] == [
        {
            "kind": "unreadable_images",
            "what": "images that cannot be read",
            "count": 1,
            "names": ["00001/samples/0003.png: 0 bytes"],
        }
    ]
