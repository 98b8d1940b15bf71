"""A recipe's evaluation with other prompts than the suite's own."""

from collections import Counter

import pytest
from PIL import Image

from softalign.config import load_recipe
from softalign.config.evaluation import EvalConfig
from softalign.errors import DataError, MissingInputError
from softalign.evaluation.suites import label_of, score_directory, suite_label, suite_prompts
from softalign.geneval.completeness import Suite
from softalign.geneval.detections import write_detections
from softalign.geneval.layout import image_filename, write_metadata
from softalign.geneval.prompts import TAGS, Clause, GenevalPrompt, official_prompts, to_json_line
from softalign.stages.requests import StageInputs, compare_request, evaluate_request
from softalign.store.store import Store

PROMPTS = (
    GenevalPrompt(tag="many", include=(Clause(class_name="circle", count=2, color="red"),), prompt="two red circles"),
)


def write(path, prompts=PROMPTS):
    path.write_text("".join(to_json_line(prompt) + "\n" for prompt in prompts))
    return str(path)


def config(uri):
    return EvalConfig(suite="shapes", prompts_uri=uri)


def test_own_prompts_stand_for_the_suites(tmp_path):
    first, second = write(tmp_path / "a.jsonl"), write(tmp_path / "b.jsonl")
    assert suite_prompts(config(first)) == PROMPTS
    assert suite_label(config(first)) == suite_label(config(second)) != "shapes"
    assert suite_label(config(first)).startswith("shapes+")
    assert suite_label(EvalConfig(suite="shapes")) == "shapes"


@pytest.mark.parametrize(("name", "color"), [("dog", None), ("circle", "pink")])
def test_what_the_detector_cannot_see_is_refused(tmp_path, name, color):
    asked = GenevalPrompt(tag="x", include=(Clause(class_name=name, count=1, color=color),), prompt="x")
    with pytest.raises(DataError, match=f"found: {color or name}"):
        suite_prompts(config(write(tmp_path / "a.jsonl", (asked,))))


@pytest.mark.parametrize(
    ("tags", "said"),
    [([f"t{place}" for place in range(41)], "41 tags"), (["x" * 61], "is longer"), (["漢" * 11], "is longer")],
    ids=["many", "long", "wide"],
)
def test_tags_that_no_record_could_hold_are_refused_before_anything_is_drawn(tmp_path, tags, said):
    clause = (Clause(class_name="circle", count=1),)
    prompts = [GenevalPrompt(tag=tag, include=clause, prompt=f"a circle, {tag}") for tag in tags]
    with pytest.raises(DataError, match=said):
        suite_prompts(config(write(tmp_path / "a.jsonl", prompts)))
    assert len(suite_prompts(config(write(tmp_path / "b.jsonl", prompts[:40] if len(tags) > 1 else PROMPTS)))) > 0


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(MissingInputError):
        suite_prompts(config(str(tmp_path / "none.jsonl")))
    with pytest.raises(DataError, match="no prompts"):
        suite_prompts(config(write(tmp_path / "a.jsonl", ())))


def test_the_content_is_in_the_key_and_the_place_is_not(tmp_path):
    def keys(uri):
        recipe = load_recipe("shapes", [f"evaluate.prompts_uri={uri}"] if uri else [])
        given = StageInputs(recipe=recipe, store=Store(str(tmp_path / "store")), arm="base")
        return evaluate_request(given).key, compare_request(given).key

    first, again = keys(write(tmp_path / "a.jsonl")), keys(write(tmp_path / "b.jsonl"))
    other = keys(write(tmp_path / "c.jsonl", PROMPTS * 2))
    assert first == again
    assert len({first[0], other[0], keys("")[0]}) == 3
    assert first[1] == keys("")[1]  # the arms' digests, its inputs, tell them apart


def test_a_suite_is_cut_to_the_first_prompts_of_each_tag_and_has_another_key(tmp_path):
    whole, cut = EvalConfig(), EvalConfig(prompts_per_tag=2)
    prompts = suite_prompts(cut)
    assert Counter(prompt.tag for prompt in prompts) == dict.fromkeys(TAGS, 2)
    assert [prompt for prompt in official_prompts() if prompt in prompts] == list(prompts)
    assert prompts[0] == official_prompts()[0]
    assert (whole.asked().keys() & {"prompts_per_tag"}, cut.asked()["prompts_per_tag"]) == (set(), 2)
    own = EvalConfig(suite="shapes", prompts_uri=write(tmp_path / "a.jsonl", PROMPTS * 3), prompts_per_tag=1)
    assert suite_prompts(own) == PROMPTS


def test_neither_a_cut_suite_nor_another_is_called_by_the_official_name(tmp_path, monkeypatch):
    monkeypatch.setattr("softalign.detectors.identity.detector_label", lambda _config: "geneval")
    cut, other = EvalConfig(prompts_per_tag=2), "geneval detector, other prompts"
    assert (suite_label(EvalConfig()), label_of(EvalConfig())) == ("geneval", "geneval")
    assert suite_label(cut).startswith("geneval+") and label_of(cut) == other
    prompts = suite_prompts(cut)
    write_metadata(tmp_path, prompts)
    names = [image_filename(index, 0) for index in range(len(prompts))]
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    write_detections(tmp_path / "detections.jsonl", {name: [] for name in names})
    scored = score_directory(tmp_path, tmp_path / "detections.jsonl", suite=Suite(prompts, 1), detector="geneval")
    assert scored.detector == other and f"({other})" in scored.to_text()
