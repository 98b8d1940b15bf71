"""The suite: six tags, fixed counts, GenEval's clauses, the same every time."""

from collections import Counter

from softalign.geneval.prompts import TAGS
from softalign.shapes.suite import build_suite


def test_counts_per_tag_in_the_official_order():
    suite = build_suite()
    assert Counter(p.tag for p in suite) == {
        "single_object": 4,
        "two_object": 12,
        "counting": 12,
        "colors": 24,
        "position": 48,
        "color_attr": 50,
    }
    assert tuple(dict.fromkeys(p.tag for p in suite)) == TAGS


def test_prompts_are_unique_and_deterministic():
    assert len({p.prompt for p in build_suite()}) == 150
    assert build_suite() == build_suite()
    assert build_suite(1) != build_suite(2)


def test_counting_excludes_one_more():
    for prompt in (p for p in build_suite() if p.tag == "counting"):
        assert prompt.exclude[0].class_name == prompt.include[0].class_name
        assert prompt.exclude[0].count == prompt.include[0].count + 1


def test_position_names_the_reference_first():
    prompt = next(p for p in build_suite() if p.tag == "position")
    assert prompt.prompt == "a photo of a circle left of a square"
    assert [c.class_name for c in prompt.include] == ["square", "circle"]
    assert prompt.include[1].position == ("left of", 0)


def test_color_attr_has_two_colours_and_two_shapes():
    for prompt in (p for p in build_suite() if p.tag == "color_attr"):
        assert len({c.class_name for c in prompt.include}) == len({c.color for c in prompt.include}) == 2
