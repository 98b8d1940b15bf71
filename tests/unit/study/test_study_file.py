"""What a study's file may say, and how it is refused."""

from copy import deepcopy

import pytest

from softalign.errors import ConfigError
from softalign.store.store import Store
from softalign.study.cells import open_cells
from softalign.study.loading import folder_of, load_study, parse_study, study_names
from softalign.study.matrix import arm_fields
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
