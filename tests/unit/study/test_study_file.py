"""What a study's file may say, and how it is refused."""

import json
from copy import deepcopy
from datetime import date

import pytest

from softalign.config import load_recipe
from softalign.errors import ConfigError
from softalign.store.store import Store
from softalign.study.cells import open_cells
from softalign.study.loading import folder_of, load_study, parse_study, study_names
from softalign.study.matrix import SET_BY_STUDY, arm_fields
from softalign.study.prompts import halves_of
from tests.study_fakes import STUDY


def changed(**sections):
    data = deepcopy(STUDY)
    for path, value in sections.items():
        *above, last = path.split("__")
        target = data
        for part in above:
            target = target[int(part) if part.isdigit() else part]
        target[last] = value
    return data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (changed(report__seed=1), "a choice would be reported on its own noise"),
        (changed(matrix__seeds=[0]), "matrix.seeds: at least 2 entries are needed"),
        (changed(matrix__seeds=[0, 0]), "seeds names a value twice"),
        (changed(positive_only="nobody"), "positive_only 'nobody' is none of agsm, positive"),
        (changed(hypotheses__0__left=["nobody"]), "H1 has 'nobody' on its left"),
        (changed(hypotheses__0__right=["nobody"]), "H1 has 'nobody' on its right"),
        (changed(hypotheses__0__guidance=[3.0]), "H1 looks at guidance 3, which matrix.guidance does not have"),
        (changed(hypotheses__0__measure="change"), "num_steps belongs to the measure change"),
        (changed(hypotheses__0__measure="dominates"), "against_guidance belongs to the measure dominates"),
        (changed(hypotheses__0__margin=0.1), "margin has no effect"),
        (
            changed(
                hypotheses__0__measure="dominates", hypotheses__0__against_guidance=[1.0], hypotheses__0__guidance=[2.0]
            ),
            "nothing to look at",
        ),
        (changed(matrix__objectives={"base": {}}, positive_only=None), "cannot be called base"),
        (
            changed(recipes={"../x": STUDY["recipes"]["mmdit"]}),
            "recipes.../x: it must be lower-case letters, digits and dashes",
        ),
        (changed(matrix__objectives={"a/b": {}}, positive_only=None), "letters, digits, dots, underscores and dashes"),
        (changed(matrix__objectives__agsm={"train.seed": 5}), "train.seed is set by the study: by matrix.seeds"),
        (changed(matrix__fields={"train.num_steps": [5]}), "train.num_steps is set by the study: by matrix.num_steps"),
        (
            changed(recipes__mmdit__fields={"evaluate.guidance_scale": 2.0}),
            "recipes.mmdit.fields: evaluate.guidance_scale is set by the study: by selection.guidance",
        ),
        (
            changed(recipes__mmdit__fields={"evaluate.prompts_uri": "x"}, prompts="y"),
            "recipes.mmdit.fields: evaluate.prompts_uri is set by the study: by prompts",
        ),
        (changed(matrix__fields={"train.ema_decay": [0.9, 0.9]}), "fields train.ema_decay names a value twice"),
        (
            changed(matrix__fields={f"train.x{number}": list(range(10)) for number in range(9)}),
            "make 2,000,000,000 arms; a study has at most 1,000",
        ),
        (changed(matrix__guidance=[1.0, 1e30]), "matrix.guidance"),
        (changed(selection__guidance=[1.0, 1.0]), "guidance names a value twice"),
        (changed(adherence=["colors", "colors"]), "adherence names a value twice"),
        (changed(hypotheses__0__tags=["colors", "colors"]), "tags names one twice"),
        (changed(hypotheses__0__right=["agsm", "base"]), "agsm is on both sides"),
        (changed(hypotheses__0__guidance=[1.0, 1.0]), "guidance names one twice"),
        (changed(hypotheses__0__threshold=5), "hypotheses.0.threshold"),
        (changed(confidence=0.9999999999999999), "confidence"),
        (changed(recipes__mmdit__seconds_per_step=1e308), "recipes.mmdit.seconds_per_step: it must be at most"),
        (changed(recipes__mmdit__fields={"train.ema_decay": date(2020, 1, 1)}), "mmdit.fields"),
        (changed(prompts="a\0b"), "prompts"),
        (changed(matrix__lengths=[1]), "matrix.lengths: there is no such field"),
        (changed(published=[{"source": "s", "columns": ["a"], "rows": {"base": [1, 2]}}]), "a number for each column"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(data, said):
    with pytest.raises(ConfigError, match=r"The study has .*problem") as caught:
        parse_study(data, "study.yaml")
    assert said in str(caught.value) and "study.yaml" in str(caught.value)


def test_a_cell_that_makes_no_recipe_is_refused_before_anything_runs(tmp_path):
    study = parse_study(changed(matrix__objectives__agsm={"train.objective": {"name": "agms"}}), "study.yaml")
    with pytest.raises(ConfigError, match=r"objective") as caught:
        open_cells(study, Store(str(tmp_path / "store")), tmp_path, folder_of("embedded"))
    assert "mmdit, agsm, seed 0" in str(caught.value)


def test_what_is_drawn_with_divided_strength_may_be_chosen_without_guidance(tmp_path):
    divided = {"train.objective": {"name": "agsm"}, "evaluate.divide_by_guidance": True}
    objectives = {**STUDY["matrix"]["objectives"], "divided": divided}
    store = Store(str(tmp_path / "store"))
    cells = open_cells(parse_study(changed(matrix__objectives=objectives), "a test"), store, tmp_path, tmp_path)
    (chosen, *_) = [cell for cell in cells.to_select() if cell.arm == "divided"]
    assert not cells.recipe_of(chosen).evaluate.divide_by_guidance
    assert cells.recipe_of(chosen.model_copy(update={"scored_on": "report"})).evaluate.divide_by_guidance
    unguided = parse_study(
        changed(matrix__objectives=objectives, matrix__guidance=[1.0], hypotheses__0__guidance=[1.0]), "a test"
    )
    with pytest.raises(ConfigError, match="divide_by_guidance has no effect") as caught:
        open_cells(unguided, store, tmp_path, tmp_path)
    assert "divided, seed 0" in str(caught.value) and "prompts_uri" not in str(caught.value)


def test_every_field_that_a_study_sets_is_told_by_name(tmp_path):
    store = Store(str(tmp_path / "store"))
    cells = open_cells(parse_study(changed(), "a test"), store, tmp_path, tmp_path)
    assert cells._cell_fields(cells.to_select()[0]).keys() == SET_BY_STUDY.keys()


def test_prompts_of_one_wording_are_in_one_half(tmp_path):
    lines = [json.loads(line) for line in halves_of(load_recipe("shapes")).report.splitlines()]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines + lines), encoding="utf-8")
    halves = halves_of(load_recipe("shapes", [f"evaluate.prompts_uri={path}"]))
    selection, report = (
        [json.loads(line)["prompt"] for line in half.splitlines()] for half in (halves.selection, halves.report)
    )
    assert len(selection) + len(report) == 2 * len(lines)
    assert {*selection}.isdisjoint(report) and len(selection) == 2 * len({*selection})


def test_tags_of_prompts_that_differ_in_nothing_are_refused(tmp_path):
    first, *_ = halves_of(load_recipe("shapes")).report.splitlines()
    path = tmp_path / "prompts.jsonl"
    path.write_text(f"{first}\n{first}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="too few prompts"):
        halves_of(load_recipe("shapes", [f"evaluate.prompts_uri={path}"]))


def test_tags_that_the_prompts_do_not_have_are_refused(tmp_path):
    study = parse_study(changed(counting="counts"), "study.yaml")
    with pytest.raises(ConfigError, match="tags that its prompts do not have"):
        open_cells(study, Store(str(tmp_path / "store")), tmp_path, folder_of("embedded"))


def test_further_fields_make_an_arm_of_every_combination():
    study = parse_study(changed(matrix__fields={"train.batch_size": [4, 8]}, positive_only=None, hypotheses=[]), "s")
    assert study.arms[:2] == ("agsm train.batch_size=4", "agsm train.batch_size=8")
    assert dict(arm_fields(study.matrix))["positive train.batch_size=8"]["train.batch_size"] == 8


def test_there_is_no_such_study_and_which_was_meant(tmp_path):
    with pytest.raises(ConfigError, match="did you mean embedded"):
        load_study("embeded")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_study(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_study(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize("name", ["embedded", "sd15", "sd3"])
def test_every_cell_of_the_packages_studies_is_a_recipe(name, tmp_path):
    assert name in study_names()
    cells = open_cells(load_study(name), Store(str(tmp_path / "store")), tmp_path, folder_of("embedded"))
    assert len(cells.to_select()) == len(set(cells.to_select()))
