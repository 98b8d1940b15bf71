"""Near-duplicates: wording may differ a little, facts may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softalign.data.captions.similarity import are_near_duplicates, facts_of, normal_form, similarity

LONG = "the quick young man in the grey jacket slowly walks along the very long and winding road near the sea at dusk"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A dog on a bench.", "a dog on the bench"),
        ("Two cats!", "two cats"),
        (LONG, LONG.replace("very ", "")),
        ("", "..."),
    ],
)
def test_duplicates(one, other):
    assert are_near_duplicates(one, other, 0.8)
    assert are_near_duplicates(other, one, 0.8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a dog left of a cat", "a dog right of a cat"),
        ("a dog left of a cat", "a cat left of a dog"),
        ("two dogs", "three dogs"),
        ("a dog", "dogs"),
        ("7 people", "8 people"),
        ("a red cup and a blue bowl", "a blue cup and a red bowl"),
        (f"{LONG} with two dogs", f"{LONG} with three dogs"),
        (f"{LONG} with a red umbrella", f"{LONG} with a blue umbrella"),
        (f"{LONG} with a cat", f"{LONG} with a dog"),
        (f"{LONG} above a car", f"{LONG} below a car"),
        ("an orange", "an apple"),
        ("", "a dog"),
    ],
)
def test_a_changed_fact_is_never_a_duplicate(one, other):
    assert similarity(one, other) == 0.0
    assert not are_near_duplicates(one, other, 0.0)


def test_at_one_only_equal_captions_are_duplicates():
    shorter = LONG.replace("very ", "")
    assert 0.8 < similarity(LONG, shorter) < 1.0
    assert not are_near_duplicates(LONG, shorter, 1.0)
    assert are_near_duplicates(LONG, LONG.upper(), 1.0)
    same_pairs = ("he sees her sees he", "her sees he sees her")
    assert similarity(*same_pairs) == 1.0
    assert not are_near_duplicates(*same_pairs, 1.0)


def test_the_threshold_decides():
    one, other = "a man walks slowly on grass", "a man walks quickly on grass"
    value = similarity(one, other)
    assert value == 6 / 12
    assert are_near_duplicates(one, other, value - 0.01)
    assert not are_near_duplicates(one, other, value)


def test_normal_form_and_facts():
    assert normal_form("The A-frame, an OWL & a 2nd") == ("a-frame", "owl", "2nd")
    assert facts_of("Two red hot dogs left of an orange") == ("two", "red", "hot dog True", "left", "orange False")


@given(st.text(max_size=30), st.text(max_size=30), st.floats(0, 1))
def test_symmetric_reflexive_and_monotone(one, other, threshold):
    assert are_near_duplicates(one, one, threshold)
    assert similarity(one, other) == similarity(other, one)
    if are_near_duplicates(one, other, 1.0):
        assert are_near_duplicates(one, other, threshold)
