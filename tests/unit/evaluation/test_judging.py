"""GenEval 2 of a folder: the arithmetic restated, every image judged once, nothing partial without a word."""

import json
import shutil
from statistics import geometric_mean

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from softalign.backbones.locating import files_fingerprint
from softalign.cli.options import app
from softalign.config import EvalConfig
from softalign.errors import CompatibilityError, ConfigError, DataError
from softalign.evaluation import judging
from softalign.evaluation.soft_tifa import JudgedPrompt, summarize_soft_tifa
from softalign.evaluation.suites import read_suite, score_directory, suite_prompts
from softalign.geneval.completeness import asked_for
from softalign.geneval.layout import image_filename, write_metadata
from softalign.metrics import judge as judges
from tests.tiny_judge import ROWS, save_tiny_judge, some_images, suite_text

NUM_IMAGES = 2


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return save_tiny_judge(tmp_path_factory.mktemp("judge"), "qwen3_vl")


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "suite.jsonl"
    path.write_text(suite_text())
    return path


@pytest.fixture
def folder(tmp_path, suite):
    root = tmp_path / "set"
    write_metadata(root, read_suite(str(suite)))
    images = some_images(len(ROWS) * NUM_IMAGES)
    for at, pixels in enumerate(images):
        Image.fromarray(pixels).save(root / image_filename(at // NUM_IMAGES, at % NUM_IMAGES))
    return root


def score(folder, suite, judge, *options):
    asked = ["geneval2", "score", str(folder), "--suite", str(suite), "--judge", str(judge), "--json", *options]
    return CliRunner().invoke(app, asked, catch_exceptions=False)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


class Counted:
    """Counts the images that are judged, and dies after some."""

    def __init__(self, monkeypatch):
        self.num_images, self.dies_after = 0, 10**9
        call = judges.Judge.__call__

        def counted(judge, image, pairs):
            if self.num_images >= self.dies_after:
                raise KeyboardInterrupt
            self.num_images += 1
            return call(judge, image, pairs)

        monkeypatch.setattr(judges.Judge, "__call__", counted)


def test_the_scores_are_the_means_of_what_stands_in_the_results(folder, suite, judge):
    shown = json.loads(score(folder, suite, judge).stdout)
    rows = rows_of(folder)
    assert [row["filename"] for row in rows] == [image_filename(p, i) for p in range(3) for i in range(NUM_IMAGES)]
    by_prompt, by_skill = {}, {}
    for row in rows:
        _, atom_count, asked = next(one for one in ROWS if one[0] == row["prompt"])
        assert (row["atom_count"], row["skills"]) == (atom_count, [skill for *_, skill in asked])
        means = np.mean(row["probabilities"]), geometric_mean(row["probabilities"])
        assert (row["soft_tifa_am"], row["soft_tifa_gm"]) == pytest.approx(means)
        by_prompt.setdefault((atom_count, row["prompt"]), []).append(means)
        for skill, probability in zip(row["skills"], row["probabilities"], strict=True):
            by_skill.setdefault(skill, []).append(probability)
    per_prompt = {key: np.mean(means, axis=0) for key, means in by_prompt.items()}
    overall = np.mean(list(per_prompt.values()), axis=0)
    assert (shown["soft_tifa_am"]["value"], shown["soft_tifa_gm"]["value"]) == pytest.approx(overall, abs=1e-6)
    for skill, found in by_skill.items():
        assert shown["skills"][skill]["soft_tifa_am"]["value"] == pytest.approx(np.mean(found), abs=1e-6)
        assert shown["skills"][skill]["num_questions"] == len(found) / NUM_IMAGES
    for count, found in shown["atom_counts"].items():
        own = [means for (atoms, _), means in per_prompt.items() if str(atoms) == count]
        means = found["soft_tifa_am"]["value"], found["soft_tifa_gm"]["value"]
        assert found["num_prompts"] == len(own)
        assert means == pytest.approx(np.mean(own, axis=0), abs=1e-6)
    assert (shown["num_prompts"], shown["num_images"], shown["missing"]) == (3, 6, [])


def test_intervals_are_over_prompts_and_hold_their_mean():
    rng = np.random.default_rng(0)
    prompts = [JudgedPrompt(3, ("count", "object"), (tuple(rng.uniform(size=2)),)) for _ in range(400)]
    found = summarize_soft_tifa(prompts, "judge")
    means = [np.mean(prompt.probabilities) for prompt in prompts]
    half = 1.96 * np.std(means) / 20  # of a mean of 400
    assert found.soft_tifa_am.ci_low == pytest.approx(np.mean(means) - half, abs=0.005)
    assert found.soft_tifa_am.ci_high == pytest.approx(np.mean(means) + half, abs=0.005)
    alike = summarize_soft_tifa([JudgedPrompt(3, ("count",), ((0.5,), (0.7,)))] * 9, "judge").soft_tifa_gm
    assert (alike.value, alike.ci_low, alike.ci_high) == pytest.approx((0.6, 0.6, 0.6))
    assert JudgedPrompt(1, ("count", "object"), ((0.0, 1.0),)).soft_tifa_gm == 0.0
    with pytest.raises(DataError, match="no images to score"):
        summarize_soft_tifa([], "judge")


def test_an_image_is_judged_once_whatever_comes_between(folder, suite, judge, monkeypatch):
    counted = Counted(monkeypatch)
    assert score(folder, suite, judge).exit_code == 0
    whole = (folder / "results.jsonl").read_bytes()
    (folder / "results.jsonl").unlink()
    counted.num_images, counted.dies_after = 0, 4
    asked = ["geneval2", "score", str(folder), "--suite", str(suite), "--judge", str(judge)]
    CliRunner().invoke(app, asked)
    assert len(rows_of(folder)) == counted.num_images == 4
    with (folder / "results.jsonl").open("a") as file:
        file.write('{"filename": "00002/sam')  # the line that it was writing
    counted.dies_after = 10**9
    assert score(folder, suite, judge).exit_code == 0
    assert (folder / "results.jsonl").read_bytes() == whole
    assert counted.num_images == 6
    Image.new("RGB", (64, 64)).save(folder / image_filename(1, 1))  # another image of the same name
    score(folder, suite, judge)
    assert counted.num_images == 7
    save_tiny_judge(judge, "qwen3_vl", seed=1)  # another judge in the same place
    score(folder, suite, judge)
    assert counted.num_images == 13


def test_nothing_partial_is_scored_without_a_word(folder, suite, judge):
    (folder / image_filename(0, 1)).unlink()
    (folder / image_filename(2, 0)).write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)missing images: 1.*cannot be read: 1.*--allow-partial") as refused:
        score(folder, suite, judge)
    assert "detections" not in str(refused.value)
    assert not (folder / "results.jsonl").exists()
    shown = json.loads(score(folder, suite, judge, "--allow-partial").stdout)
    assert {lack["kind"]: lack["count"] for lack in shown["missing"]} == {"images": 1, "unreadable_images": 1}
    assert shown["num_images"] == 4
    asked = ["geneval2", "score", str(folder), "--suite", str(suite), "--judge", str(judge), "--allow-partial"]
    assert "not complete" in CliRunner().invoke(app, asked).stdout
    suite.write_text(suite_text([*ROWS, ("a dog", 1, [("Any dogs?", "Yes", "object")])]))
    with pytest.raises(DataError, match="prompts of the suite without a folder: 1"):
        score(folder, suite, judge)


def test_results_from_elsewhere_are_not_replaced(folder, suite, judge):
    (folder / "results.jsonl").write_text('{"filename": "x", "correct": true}\n')
    with pytest.raises(ConfigError, match="came from elsewhere"):
        score(folder, suite, judge)
    assert (folder / "results.jsonl").read_text().startswith('{"filename": "x"')


def test_a_suite_of_the_one_kind_is_no_suite_of_the_other(folder, suite, judge, tmp_path):
    detected = tmp_path / "official.jsonl"
    CliRunner().invoke(app, ["geneval", "prompts", "--out", str(detected)])
    with pytest.raises(DataError, match=r"(?s)no questions for a judge.*geneval score"):
        score(folder, detected, judge)
    found = tmp_path / "detections.jsonl"
    found.write_text(
        "".join(
            json.dumps({"filename": image_filename(p, i), "detections": []}) + "\n" for p in range(3) for i in range(2)
        )
    )
    with pytest.raises(DataError, match=r"(?s)vision-language model.*geneval2 score"):
        score_directory(folder, found)
    with pytest.raises(DataError, match="vision-language model"):
        suite_prompts(EvalConfig(suite="geneval", prompts_uri=str(suite)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"skills": ["count"]}, "2 pairs in vqa_list, but 1 skills"),
        ({"vqa_list": [], "skills": []}, "at least one"),
        ({"vqa_list": [["How many?"], ["Any?", "Yes"]]}, "not enough values"),
        ({"vqa_list": [["How many?", " "], ["Any?", "Yes"]]}, "answer"),
        ({"vqa_list": {"q?": "Yes", "r?": "No"}}, "no list of pairs"),
        ({"vqa_list": ["ab", "cd"]}, "no list of pairs"),
        ({"skills": "ab"}, "no list of pairs"),
        ({"atom_count": 0}, "atom_count"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(suite, change, said):
    first, *rest = suite.read_text().splitlines()
    suite.write_text("\n".join([*rest, json.dumps(json.loads(first) | change)]))
    with pytest.raises(DataError, match=rf"(?s){said}.*line 3"):
        read_suite(str(suite))


def test_prompts_are_told_apart_by_what_is_asked_and_read_back_as_they_were(suite):
    prompts = read_suite(str(suite))
    assert len({asked_for(prompt) for prompt in prompts}) == len(ROWS)
    assert "".join(judging.to_json_line(prompt) + "\n" for prompt in prompts) == suite_text()


def compare(*arguments):
    return CliRunner().invoke(app, ["geneval2", "compare", *map(str, arguments)], catch_exceptions=False)


def test_a_judge_that_cannot_be_loaded_costs_no_earlier_answer(folder, suite, judge, tmp_path):
    score(folder, suite, judge)
    whole = (folder / "results.jsonl").read_bytes()
    other = save_tiny_judge(tmp_path / "other", "qwen3_vl", seed=1)
    (other / "chat_template.jinja").unlink()
    with pytest.raises(CompatibilityError, match="no chat template"):
        score(folder, suite, other)
    assert (folder / "results.jsonl").read_bytes() == whole


def half(root):
    lines = (root / "results.jsonl").read_text().splitlines(keepends=True)
    (root / "results.jsonl").write_text("".join(lines[:4]))
    return root


def unused(*_args):
    raise AssertionError("a judge is loaded")


def test_what_another_judge_answered_is_kept_beside(folder, suite, judge, tmp_path, monkeypatch):
    score(folder, suite, judge)
    before = (folder / "results.jsonl").read_bytes()
    other = save_tiny_judge(tmp_path / "other", "llava")
    score(folder, suite, other)
    first = json.loads(before.splitlines()[0])["judge"]
    assert (folder / f"results-{first[:8]}.jsonl").read_bytes() == before
    assert {row["judge"] for row in rows_of(folder)} == {files_fingerprint(str(other), None)}
    after = (folder / "results.jsonl").read_bytes()
    monkeypatch.setattr(judges, "load_judge", unused)  # going back asks nobody
    with pytest.raises(AssertionError, match="loaded"):  # an image that nobody judged does
        (folder / image_filename(0, 0)).write_bytes((folder / image_filename(1, 0)).read_bytes())
        score(folder, suite, judge)
    kept = [(folder / f"results-{first[:8]}.jsonl").read_bytes(), (folder / "results.jsonl").read_bytes()]
    assert kept == [before, after], "nothing is lost where the judge does not load"
    monkeypatch.undo()
    score(folder, suite, judge)
    second = json.loads(after.splitlines()[0])["judge"]
    assert (folder / f"results-{second[:8]}.jsonl").read_bytes() == after
    assert len(rows_of(folder)) == len(before.splitlines())


def test_going_back_to_a_judge_asks_it_nothing_again(folder, suite, judge, tmp_path, monkeypatch):
    score(folder, suite, judge)
    before = (folder / "results.jsonl").read_bytes()
    other = save_tiny_judge(tmp_path / "other", "llava")
    score(folder, suite, other)
    monkeypatch.setattr(judges, "load_judge", unused)
    score(folder, suite, judge)
    assert (folder / "results.jsonl").read_bytes() == before


def test_an_answer_that_is_no_number_is_refused_and_the_others_are_kept(folder, suite, judge, monkeypatch):
    class Broken:
        def __init__(self):
            self.number = 0

        def __call__(self, _image, pairs):
            self.number += 1
            return [0.5 if self.number < 3 else float("nan")] * len(pairs)

    monkeypatch.setattr(judges, "load_judge", lambda *_args: Broken())
    with pytest.raises(CompatibilityError, match="no number"):
        score(folder, suite, judge)
    assert [row["probabilities"][0] for row in rows_of(folder)] == [0.5, 0.5]


def test_half_judged_folders_are_not_compared_without_a_word(folder, suite, judge):
    score(folder, suite, judge)
    half(folder)
    with pytest.raises(DataError, match=r"(?s)not complete.*a cat on a mat.*--allow-partial"):
        compare(folder, folder)
    shown = json.loads(compare(folder, folder, "--allow-partial", "--json").stdout)
    assert [[lack["kind"] for lack in own] for own in shown["missing"]] == [["prompts", "tags"]] * 2
    assert "a cat on a mat" in compare(folder, folder, "--allow-partial").stdout


def test_answers_of_other_judges_are_not_compared(folder, suite, judge, tmp_path):
    score(folder, suite, judge)
    other = shutil.copytree(folder, tmp_path / "other")
    assert compare(folder, other).exit_code == 0
    score(other, suite, save_tiny_judge(tmp_path / "another judge", "qwen3_vl", seed=2))
    with pytest.raises(DataError, match=r"(?s)different judges.*--judge"):
        compare(folder, other)
