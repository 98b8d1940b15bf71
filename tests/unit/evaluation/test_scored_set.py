"""What ``geneval score`` and ``geneval compare`` write: summary, card and page, and whose scores stand in them."""

import json
import re
import sys

import numpy as np
import pytest

from softalign.cli import app
from softalign.config import Runtime
from softalign.errors import DataError
from softalign.evaluation.metric_sets import measure_sets
from softalign.evaluation.scored_files import write_beside
from softalign.evaluation.scored_set import scored_set
from softalign.evaluation.suites import results_place, score_directory
from softalign.evaluation.verdicts import read_verdicts
from softalign.geneval.completeness import Suite
from softalign.geneval.detections import Detection, write_detections
from softalign.geneval.layout import image_filename, write_metadata
from softalign.geneval.prompts import Clause, GenevalPrompt, official_prompts
from softalign.sampling.geneval_set import GENERATION_FILENAME, Generation
from softalign.sampling.sampling import png_bytes

HOSTILE = "</script><script>alert(1)</script> <img src=x onerror=alert(1)> [x](javascript:alert(1)) |"
PROMPTS = (
    GenevalPrompt(tag="own tag", include=(Clause(class_name="dog", count=1),), prompt=HOSTILE),
    GenevalPrompt(tag="counting", include=(Clause(class_name="dog", count=2),), prompt="a photo of two dogs"),
)


def make(root, num_dogs, num_images=2):
    """Write a set of images of so many dogs, beside its detections."""
    write_metadata(root, PROMPTS)
    rng = np.random.default_rng(0)
    names = [image_filename(prompt, image) for prompt in range(len(PROMPTS)) for image in range(num_images)]
    for name in names:
        (root / name).write_bytes(png_bytes(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)))
    dogs = [Detection(class_name="dog", score=0.95, box=(10 + i, 20, 40, 60)) for i in range(num_dogs)]
    cat = Detection(class_name="cat", score=0.2, box=(0, 0, 128, 96))
    write_detections(root.parent / f"{root.name}.jsonl", {name: [*dogs, cat] for name in names})
    return root


def score(root, detector="", **options):
    detections = root.parent / f"{root.name}.jsonl"
    summary = score_directory(root, detections, detector=detector, **options)
    return write_beside(scored_set(root, results_place(root, None), summary, detections))


def gallery_of(path):
    page = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["softalign", "geneval", *arguments])
    with pytest.raises(SystemExit) as stop:
        app.main()
    shown = capsys.readouterr()
    assert not stop.value.code, shown.err
    return shown.out


def test_card_and_page_say_the_scores_and_whose_they_are(tmp_path):
    written = score(make(tmp_path / "one", 1), "geneval-hf")
    card, page = written.card.read_text(), written.page.read_text()
    assert "| task | geneval-hf, of 100 | 95 % interval | correct | images |" in card
    assert "| own tag | 100.0 | 100.0 to 100.0 | 2 | 2 |" in card
    assert "| overall | 50.0 | 50.0 to 50.0 | 2 | 4 |" in card
    assert "these are geneval-hf scores" in card and "How the images were made is not recorded." in card
    assert "50.0 (50.0–50.0)" in page and '<span class="judge">geneval-hf</span>' in page
    assert "partial" not in card + page.split("<script")[0] and str(tmp_path) not in card + page
    gallery = gallery_of(written.page)
    assert gallery["columns"] == [["one", "one"]] and gallery["pairs"] == []
    first = gallery["entries"][0]
    assert first[:3] == ["00000/samples/0000.png", "own tag", HOSTILE]
    assert first[3][0][3] == [[0, 95, 78, 208, 312, 625, 1], [1, 20, 0, 0, 1000, 1000, 0]]
    assert written.page.read_bytes() == score(tmp_path / "one", "geneval-hf").page.read_bytes()


def test_hostile_prompts_and_names_stay_text(tmp_path):
    written = score(make(tmp_path / "<img src=x onerror=alert(1)>", 1))
    page, card = written.page.read_text(), written.card.read_text()
    assert page.count("<script") == 2 and "<img src=x" not in page
    assert "<img" not in card.replace("\\<", "")


def test_of_an_incomplete_set_every_score_is_called_partial(tmp_path):
    root = make(tmp_path / "set", 1)
    (root / "00001/samples/0001.png").unlink()
    written = score(root, is_partial_allowed=True)
    card, page = written.card.read_text(), written.page.read_text()
    rows = [line for line in card.splitlines() if re.match(r"\| (own tag|counting|overall) ", line)]
    assert len(rows) == 3 and all("(partial)" in row for row in rows)
    assert "missing images: 1 (00001/samples: 1 of 2)" in card and "unknown detector" in card
    cells = re.findall(r'<td class="number">([^<]*)</td>', page)
    assert len(cells) == 3 and all("partial" in cell for cell in cells)
    assert "missing images: 1 (00001/samples: 1 of 2)" in page


def test_how_the_set_was_drawn_stands_on_both(tmp_path):
    root = make(tmp_path / "set", 1)
    facts = {"base_model": "sd3", "base_digest": "b", "adapter": "cats/2", "adapter_sha256": "a", "adapter_scale": 1.0}
    sampling = {"seed": 7, "images_per_prompt": 2, "num_inference_steps": 28, "guidance_scale": 4.5}
    suite = {
        "resolution_px": 512,
        "num_prompts": 2,
        "prompts_sha256": "p",
        "sampler": "EulerDiscreteScheduler",
    }
    (root / GENERATION_FILENAME).write_text(Generation(**facts, **sampling, **suite).model_dump_json())
    written = score(root)
    said = "Drawn from sd3, adapter cats/2: sampler EulerDiscreteScheduler, 28 steps, guidance 4.5, 512 pixels, seed 7."
    assert said in written.card.read_text() and said in written.page.read_text()


def test_who_judged_is_known_to_what_reads_the_results_until_they_change(tmp_path):
    written = score(make(tmp_path / "set", 1), "geneval")
    assert read_verdicts(str(tmp_path / "set")).judge == "geneval detector, other prompts"
    written.results.write_text(written.results.read_text().replace('"correct": true', '"correct": false'))
    assert read_verdicts(str(tmp_path / "set")).judge == "unknown detector"


def test_the_commands_write_pages_or_none(tmp_path, monkeypatch, capsys):
    for name, num_dogs in (("a", 1), ("b", 2), ("c", 2)):
        root = make(tmp_path / name, num_dogs)
        out = run(monkeypatch, capsys, "score", str(root), "--detections", f"{root}.jsonl", "--json")
        files = json.loads(out)["files"]
        assert sorted(path.name for path in root.glob("results*")) == sorted(
            path.rpartition("/")[2] for path in files.values()
        )
    sets = [str(tmp_path / name) for name in "abc"]
    page = tmp_path / "compared.html"
    found = json.loads(run(monkeypatch, capsys, "compare", *sets, "--out", str(page), "--json"))
    assert found["page"] == str(page) and found["sets"]["A"]["judge"] == "unknown detector"
    assert found["differences"][0]["statistics"][-1]["wins"] == 2
    gallery = gallery_of(page)
    assert (gallery["columns"], gallery["pairs"]) == ([["A", "A"], ["B", "B"], ["C", "C"]], [[1, 0], [2, 0], [2, 1]])
    assert all(image[2] for entry in gallery["entries"] for image in entry[3])
    assert "B cannot be told apart from A (+50.0 points)." in page.read_text()  # two prompts give it by luck too
    monkeypatch.chdir(tmp_path)
    assert "page  comparison.html" in run(monkeypatch, capsys, "compare", *sets[:2])
    assert len(gallery_of(tmp_path / "comparison.html")["columns"]) == 2
    run(monkeypatch, capsys, "score", sets[0], "--detections", f"{sets[0]}.jsonl", "--no-page")
    assert not (tmp_path / "a/results.page.html").exists()


def test_results_without_their_images_are_compared_all_the_same(tmp_path, monkeypatch, capsys):
    for name, num_dogs in (("a", 1), ("b", 2)):
        score(make(tmp_path / name, num_dogs))
        (tmp_path / f"{name}-results.jsonl").write_bytes((tmp_path / name / "results.jsonl").read_bytes())
    line = json.loads((tmp_path / "b-results.jsonl").read_text().splitlines()[0])
    text = (tmp_path / "b-results.jsonl").read_text().replace(json.dumps(line["details"]), '"no JSON"', 1)
    (tmp_path / "b-results.jsonl").write_text(text)
    page = tmp_path / "page.html"
    run(monkeypatch, capsys, "compare", *(str(tmp_path / f"{name}-results.jsonl") for name in "ab"), "--out", str(page))
    gallery = gallery_of(page)
    assert not any(image[2] for entry in gallery["entries"] for image in entry[3])
    assert "The images are not at hand" in page.read_text()
    assert gallery["entries"][0][3][1][3] is None and len(gallery["entries"][1][3][1][3]) == 2


def test_names_that_lead_out_of_a_set_are_not_read(tmp_path):
    from softalign.evaluation.report.sets_page import _file

    root = make(tmp_path / "set", 1)
    assert _file(root, "00000/samples/0000.png") is not None
    for name in ("../set/00000/samples/0000.png", str(root / "00000/samples/0000.png"), "00000/samples/../x.png"):
        assert _file(root, name) is None
    (root / "00000/samples/0000.png").write_bytes(b"no image")
    assert _file(root, "00000/samples/0000.png") is None


def test_results_go_into_a_folder_whatever_dots_its_name_has(tmp_path):
    root = make(tmp_path / "set", 1)
    places = {name: results_place(root, tmp_path / name) for name in ("sd3", "sd3.5", "sd3.0", "own.jsonl", "own.txt")}
    folders = {name: place.relative_to(tmp_path).as_posix() for name, place in places.items()}
    inside = {name: f"{name}/results.jsonl" for name in ("sd3", "sd3.5", "sd3.0")}
    assert folders == {**inside, "own.jsonl": "own.jsonl", "own.txt": "own.txt"}
    (tmp_path / "old.out").write_text("results")
    (tmp_path / "folder.jsonl").mkdir()
    assert results_place(root, tmp_path / "old.out") == tmp_path / "old.out"
    assert results_place(root, tmp_path / "folder.jsonl") == tmp_path / "folder.jsonl/results.jsonl"


def test_a_set_of_other_prompts_is_refused_with_the_option_that_names_them(tmp_path):
    root = make(tmp_path / "set", 1)
    score(root)
    official = Suite(official_prompts(), images_per_prompt=4)
    with pytest.raises(DataError, match="--suite FILE"):
        read_verdicts(str(root), official)
    with pytest.raises(DataError, match="--suite FILE"):
        measure_sets([root], [], Runtime(), official)
