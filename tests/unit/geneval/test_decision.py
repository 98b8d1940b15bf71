import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softalign.errors import DataError
from softalign.geneval.decision import MAX_OBJECTS_PER_CLASS, decide, relations_between, select_objects
from softalign.geneval.detections import Detection
from softalign.geneval.prompts import Clause, GenevalPrompt


def found(name, score=0.95, box=(0, 0, 10, 10), color=None):
    return Detection(class_name=name, score=score, box=box, color=color)


def at(x, y, half=5.0, name="cat"):
    return found(name, box=(x - half, y - half, x + half, y + half))


def asking(*include, tag="two_object", exclude=()):
    return GenevalPrompt(tag=tag, include=include, exclude=exclude, prompt="a photo")


def clause(name, count=1, **fields):
    return Clause(class_name=name, count=count, **fields)


COUNT_TWO = asking(clause("dog", 2), exclude=(clause("dog", 3),), tag="counting")


@pytest.mark.parametrize(
    ("tag", "score", "is_correct"),
    [
        ("single_object", 0.3, False),
        ("single_object", 0.3001, True),
        ("counting", 0.9, False),
        ("counting", 0.9001, True),
        ("position", 0.85, True),
    ],
)
def test_a_detection_counts_above_the_threshold_of_its_tag(tag, score, is_correct):
    assert decide(asking(clause("dog"), tag=tag), [found("dog", score)]).is_correct is is_correct


@pytest.mark.parametrize(("number", "is_correct"), [(1, False), (2, True), (3, False)])
def test_counting_wants_exactly_that_many(number, is_correct):
    decision = decide(COUNT_TWO, [found("dog")] * number)
    assert decision.is_correct is is_correct
    assert (decision.reason == "") is is_correct


def test_a_doubtful_extra_object_does_not_break_a_count():
    assert decide(COUNT_TWO, [found("dog"), found("dog"), found("dog", 0.8)]).is_correct


def test_all_include_clauses_are_needed():
    decision = decide(asking(clause("dog"), clause("cat")), [found("dog")])
    assert not decision.is_correct
    assert decision.reason == "Expected at least 1 cat, found 0."


def test_every_failing_clause_gives_its_reason():
    prompt = asking(clause("dog"), clause("cat", 2), exclude=(clause("cup", 1),))
    assert decide(prompt, [found("cat"), found("cup")]).reason.splitlines() == [
        "Expected at least 1 dog, found 0.",
        "Expected at least 2 cat, found 1.",
        "Expected fewer than 1 cup, found 1.",
    ]


def test_any_exclude_clause_is_enough():
    prompt = asking(clause("dog"), exclude=(clause("cup", 3), clause("cat", 1)))
    assert not decide(prompt, [found("dog"), found("cat")]).is_correct
    assert decide(prompt, [found("dog"), found("cup"), found("cup")]).is_correct


def test_at_most_sixteen_objects_of_a_class():
    objects = select_objects([found("dog", 0.99 - i / 100) for i in range(20)], "counting")
    assert [d.score for d in objects["dog"]] == pytest.approx([0.99 - i / 100 for i in range(9)])
    objects = select_objects([found("dog", 0.99 - i / 100) for i in range(20)], "two_object")
    assert len(objects["dog"]) == MAX_OBJECTS_PER_CLASS == 16
    prompt = asking(clause("dog"), exclude=(clause("dog", 17),))
    assert decide(prompt, [found("dog")] * 30).is_correct


def test_only_the_best_scores_decide_the_colour():
    prompt = asking(clause("dog", color="red"), tag="colors")
    best_is_blue = [found("dog", 0.6, color="red"), found("dog", 0.9, color="blue")]
    decision = decide(prompt, best_is_blue)
    assert decision.reason == "Expected at least 1 red dog, found 1 blue."
    assert decide(prompt, [found("dog", 0.6, color="blue"), found("dog", 0.9, color="red")]).is_correct


def test_count_of_them_must_have_the_colour():
    prompt = asking(clause("dog", 2, color="red"), tag="colors")
    decision = decide(prompt, [found("dog", color="red"), found("dog", color="blue")])
    assert decision.reason == "Expected at least 2 red dog, found 1 red, 1 blue."


def test_a_missing_colour_is_an_error_only_where_it_decides():
    prompt = asking(clause("dog", color="red"), tag="colors")
    with pytest.raises(DataError, match="colour"):
        decide(prompt, [found("dog")])
    assert decide(prompt, [found("dog", 0.9, color="red"), found("dog", 0.8), found("cat")]).is_correct


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (-20, 0, {"left of"}),
        (20, 0, {"right of"}),
        (0, -20, {"above"}),  # image y grows downwards
        (0, 20, {"below"}),
        (-20, -20, {"left of", "above"}),
        (0, 0, set()),
        (1.9, 0, set()),  # less than a tenth of both extents (2 px)
        (2.0, 0, set()),
        (3.9, 0, set()),  # (3.9 - 2) / 3.9 = 0.487
        (4.1, 0, {"right of"}),  # (4.1 - 2) / 4.1 = 0.512
        (12, -20, {"above"}),  # dx = 10 / 23.3 = 0.43
        (14, -20, {"above"}),  # dx = 12 / 24.4 = 0.491; by the shrunk offset's norm it would be 0.55
        (15, -20, {"right of", "above"}),  # dx = 13 / 25 = 0.52
    ],
)
def test_relations_shrink_the_offset_and_divide_by_the_unshrunk_norm(x, y, expected):
    assert relations_between(at(x, y), at(0, 0)) == expected


positions = st.floats(-100, 100, allow_nan=False)
halves = st.floats(0.5, 40, allow_nan=False)
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@given(positions, positions, halves, halves)
@settings(max_examples=200, deadline=None)
def test_relations_are_opposite_from_the_other_side(x, y, half_a, half_b):
    first, second = at(x, y, half_a), at(0, 0, half_b)
    assert {OPPOSITE[r] for r in relations_between(first, second)} == relations_between(second, first)


@given(positions, positions, halves, halves)
@settings(max_examples=200, deadline=None)
def test_relations_equal_the_written_rule(x, y, half_a, half_b):
    first, second = at(x, y, half_a), at(0, 0, half_b)
    centres = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (first.box, second.box)]
    offset = [centres[0][axis] - centres[1][axis] for axis in (0, 1)]
    extent = [sum(b[axis + 2] - b[axis] for b in (first.box, second.box)) for axis in (0, 1)]
    shrunk = [np.sign(o) * max(abs(o) - 0.1 * e, 0) for o, e in zip(offset, extent, strict=True)]
    expected = set()
    if max(abs(s) for s in shrunk) >= 1e-3:
        dx, dy = (s / np.hypot(*offset) for s in shrunk)
        expected |= {"left of"} if dx < -0.5 else {"right of"} if dx > 0.5 else set()
        expected |= {"above"} if dy < -0.5 else {"below"} if dy > 0.5 else set()
    assert relations_between(first, second) == expected


LEFT_OF_DOG = asking(clause("dog"), clause("cat", position=("left of", 0)), tag="position")


def test_position_compares_the_best_of_each_class():
    assert decide(LEFT_OF_DOG, [at(0, 0, name="dog"), at(-30, 0)]).is_correct
    decision = decide(LEFT_OF_DOG, [at(0, 0, name="dog"), at(0, -30)])
    assert decision.reason == "Expected cat left of dog, found above."
    assert decide(LEFT_OF_DOG, [at(0, 0, name="dog"), at(0, 0)]).reason.endswith("found no clear relation.")


def test_a_failed_target_fails_what_is_placed_by_it():
    assert decide(LEFT_OF_DOG, [at(-30, 0)]).reason.splitlines() == [
        "Expected at least 1 dog, found 0.",
        "There is no target for the cat to be left of.",
    ]


def test_every_pair_must_have_the_relation():
    prompt = asking(clause("dog", 2), clause("cat", position=("left of", 0)), tag="position")
    dogs = [at(0, 0, name="dog"), at(40, 0, name="dog")]
    assert decide(prompt, [*dogs, at(-30, 0)]).is_correct
    assert not decide(prompt, [*dogs, at(20, 0)]).is_correct


def test_overlapping_boxes_are_not_suppressed():
    assert decide(COUNT_TWO, [found("dog"), found("dog")]).is_correct
