"""What makes no sense together is refused where nobody can want it and warned of elsewhere; local models never."""

import pytest

from softalign.config import load_recipe
from softalign.errors import ConfigError
from softalign.stages.checks import check_evaluation
from softalign.stages.sense import mismatches, warnings_of

COCO = "curation.sources=[{type: coco, annotations_uri: a.json, images_uri: b}]"
PARQUET = "curation.sources=[{type: parquet, table_uri: a.parquet, images_uri: b}]"
SD15 = "backbone={family: sd15}"
HUB = "backbone={family: sd15, model: someone/shapes-model}"


@pytest.mark.parametrize(
    ("overrides", "refused", "warned"),
    [
        ([], [], []),
        (["evaluate.suite=geneval"], ["evaluate.suite, backbone.model"], []),
        ([COCO], [], ["curation.sources.0, backbone.model"]),
        ([PARQUET], [], ["curation.sources.0, backbone.model"]),
        ([SD15, COCO], ["evaluate.suite, backbone.model"], []),
        ([SD15, COCO, "evaluate.suite=geneval"], [], []),
        ([HUB, COCO], [], ["evaluate.suite, backbone.model"]),
        ([HUB, COCO, "evaluate.suite=geneval"], [], []),
        ([SD15, "evaluate.suite=geneval"], [], ["curation.sources.0, curation.sources.1, backbone.model"]),
    ],
)
def test_the_parts_that_make_no_sense_together_are_named(overrides, refused, warned):
    recipe = load_recipe("shapes-unet", overrides)
    found = mismatches(recipe)
    assert [one.where for one in found if one.is_hopeless] == refused
    assert [one.where for one in found if not one.is_hopeless] == warned
    assert [text.split(":")[0] for text in warnings_of(recipe)] == warned
    if refused:
        with pytest.raises(ConfigError, match=refused[0]):
            check_evaluation(recipe, None)


@pytest.mark.parametrize("suite", ["shapes", "geneval"])
@pytest.mark.parametrize("source", [None, COCO])
def test_a_model_in_a_local_folder_goes_with_everything(tmp_path, suite, source):
    overrides = [
        f"backbone={{family: sd15, model: {tmp_path}}}",
        f"evaluate.suite={suite}",
        *([source] if source else []),
    ]
    assert mismatches(load_recipe("shapes-unet", overrides)) == ()
