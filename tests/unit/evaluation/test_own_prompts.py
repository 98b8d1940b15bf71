"""A recipe's evaluation with other prompts than the suite's own."""

import pytest

from softalign.config import load_recipe
from softalign.config.evaluation import EvalConfig
from softalign.errors import DataError, MissingInputError
from softalign.evaluation.suites import suite_label, suite_prompts
from softalign.geneval.prompts import Clause, GenevalPrompt, to_json_line
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
