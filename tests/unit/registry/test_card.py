"""What registration adds to a card: facts of the comparison, and nothing where there is none."""

from dataclasses import replace

import pytest

from softalign.artifacts import PairStatistics, TaskStatistics
from softalign.artifacts.card import CardPictures, DataChange, PictureRow
from softalign.errors import IntegrityError
from softalign.registry.card import card_sections
from softalign.store.store import Store
from tests.registry_samples import publish_inputs

CHANGE = DataChange(
    before="cats/2",
    is_known=True,
    is_same=False,
    num_images_before=90,
    num_images=100,
    num_added=12,
    num_removed=2,
    num_recaptioned=5,
)


@pytest.fixture
def inputs(tmp_path):
    return publish_inputs(Store(str(tmp_path / "store")), 0.1, champion="cats/2#abc", beside=0.05)


def sections(inputs, folder):
    return card_sections(inputs.comparison, inputs.reports, folder)


def test_every_score_has_its_interval_and_certainty_is_said(tmp_path, inputs):
    text = sections(inputs, tmp_path)
    assert "| base | untrained tokens | adapter | gain over base | gain over untrained tokens |" in text
    assert "| tag (embedded) |" in text and "judged by `embedded`" in text
    assert "Sampler and steps were not recorded." in text
    assert "gain over cats/2" in text and "95 % intervals" in text
    assert "| overall | 50.0 [48.0, 52.0] |" in text and "| +10.0 [+8.0, +12.0] |" in text
    assert "Better than the base for certain: overall." in text
    assert "Not told apart from the base: single_object, " in text
    assert "Worse than the base" not in text and "Nothing else was" in text
    assert "Pictures" not in text and "changed in the data" not in text


def test_what_the_pairs_show_stands_by_tag_with_what_could_be_told(tmp_path, inputs):
    def one(tag, p_adjusted):
        counts = {"wins": 9, "losses": 4, "prompts_better": 5, "prompts_worse": 2}
        return TaskStatistics(tag=tag, p_value=0.0123, p_adjusted=p_adjusted, detectable=0.034, **counts)

    tasks = (one("counting", 0.0738), one("overall", None))
    statistics = PairStatistics(
        planned_detectable=0.041, adapter_vs_base=tasks, adapter_vs_untrained=tasks, adapter_vs_champion=tasks
    )
    (tmp_path / "statistics.json").write_text(statistics.model_dump_json())
    text = sections(inputs, tmp_path)
    assert "| counting | 0.0738 | 9 : 4 | 3.4 |" in text and "| overall | 0.0123 | 9 : 4 | 3.4 |" in text
    assert "it was put at 4.1 overall." in text
    assert "Better than the base for certain: overall." in text  # p-values beside intervals
    by_luck = statistics.model_copy(update={"adapter_vs_base": (tasks[1].model_copy(update={"p_value": 0.25}),)})
    (tmp_path / "statistics.json").write_text(by_luck.model_dump_json())
    assert "Not told apart from the base: overall, " in sections(inputs, tmp_path)
    for name in ("untrained tokens", "cats/2"):
        assert f"Beside {name}: p = 0.0123, 9 won, 4 lost." in text


def test_the_sampler_is_the_one_of_the_record(tmp_path, inputs):
    drawn = {"sampler": "FlowMatchEulerDiscreteScheduler", "num_inference_steps": 28}
    reports = replace(inputs.reports, adapter=inputs.reports.adapter.model_copy(update=drawn))
    assert "Sampler FlowMatchEulerDiscreteScheduler, 28 steps." in card_sections(inputs.comparison, reports, tmp_path)


def test_the_champions_scores_stand_beside_the_adapters(tmp_path, inputs):
    champion = inputs.reports.base.model_copy(update={"arm": "champion", "overall_score": 0.55})
    text = card_sections(inputs.comparison, replace(inputs.reports, champion=champion), tmp_path)
    assert "| base | untrained tokens | champion | adapter |" in text and "| 55.0 [" in text


def test_what_is_worse_is_said_too(tmp_path):
    worse = publish_inputs(Store(str(tmp_path / "store")), -0.2)
    assert "Worse than the base for certain: overall, single_object, " in sections(worse, tmp_path)


def test_pictures_and_the_change_of_data_are_those_of_the_comparison(tmp_path, inputs):
    (tmp_path / "pictures").mkdir()
    row = PictureRow(
        tag="counting", prompt="a photo of two cats", num_images=4, num_correct_base=1, num_correct_adapter=3
    )
    pictures = CardPictures(image="base-and-adapter.png", rows=(row,))
    (tmp_path / "pictures" / "pictures.json").write_text(pictures.model_dump_json())
    (tmp_path / "data_change.json").write_text(CHANGE.model_dump_json())
    text = sections(inputs, tmp_path)
    assert "](pictures/base-and-adapter.png)" in text
    assert "| counting | a photo of two cats | 1 of 4 | 3 of 4 |" in text
    assert "90 images became 100; 12 added, 2 removed, 5 with other captions" in text
    assert text.index("changed in the data") < text.index("## Evaluation") < text.index("## Pictures")


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"is_same": True}, "The dataset is that of cats/2"), ({"is_known": False}, "that one was not at hand")],
    ids=str,
)
def test_the_same_data_or_unknown_data_are_said_to_be(tmp_path, inputs, changed, words):
    (tmp_path / "data_change.json").write_text(CHANGE.model_copy(update=changed).model_dump_json())
    assert words in sections(inputs, tmp_path)


def test_a_damaged_description_is_named(tmp_path, inputs):
    (tmp_path / "data_change.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"data_change\.json"):
        sections(inputs, tmp_path)
