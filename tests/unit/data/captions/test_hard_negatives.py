"""Edited captions: one fact changed, words and articles right, nothing that may still be true of the image."""

import json
from collections import Counter
from itertools import combinations, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softalign.config import NegativesConfig
from softalign.config.training import EDIT_KINDS
from softalign.data.captions.hard_negatives import drawn_edits, edited_captions
from softalign.data.captions.similarity import are_near_duplicates, facts_of, normal_form
from softalign.geneval.prompts import CLASSES, COLORS, POSITIONS, official_prompts, with_article
from softalign.shapes.captions import COUNT_WORDS, Caption, Phrase, altered_captions
from softalign.shapes.scenes import COLORS as WORLD_COLORS
from softalign.shapes.scenes import SHAPES
from softalign.shapes.tokenizer import vocabulary

COCO = Path(__file__).parents[4].parent / "shared" / "data" / "coco" / "annotations" / "captions_train2017.json"


def texts(caption, kind, also_true=()):
    return [edit.text for edit in edited_captions(caption, also_true) if edit.kind == kind]


@pytest.mark.parametrize(
    ("caption", "kind", "edits"),
    [
        ("two dogs", "count", ["three dogs", "four dogs", "five dogs"]),
        ("Four cows in a barn.", "count", ["Three cows in a barn.", "Five cows in a barn.", "Two cows in a barn."]),
        ("a photo of a bench", "count", [f"a photo of {count} benches" for count in ("two", "three", "four", "five")]),
        ("An orange on a plate", "count", [f"{c} oranges on a plate" for c in ("Two", "Three", "Four", "Five")]),
        ("a red knife", "count", [f"{count} red knives" for count in ("two", "three", "four", "five")]),
        ("a bus left of a bench", "position", ["a bus right of a bench"]),
        ("to the Right of the car", "position", ["to the Left of the car"]),
        ("A mirror above a sink", "position", ["A mirror below a sink"]),
        ("FOUR TOOTHBRUSHES IN IT", "count", [f"{c} TOOTHBRUSHES IN IT" for c in ("THREE", "FIVE", "TWO")]),
        ("a dog", "color", []),
        ("a red stop sign", "color", [f"{with_article(color)} stop sign" for color in COLORS if color != "red"]),
        ("a photo of a tv", "position", []),
        ("a skateboard", "object", [f"a {x}" for x in CLASSES[29:39] if x != "skateboard"]),
        ("an elephant sitting", "object", [f"a {x} sitting" for x in CLASSES[14:24] if x != "elephant"]),
        ("a cat", "object", [with_article(x) for x in CLASSES[14:24] if x != "cat"]),
        (
            "three benchs",
            "object",
            ["three traffic lights", "three fire hydrants", "three stop signs", "three parking meters"],
        ),
    ],
)
def test_edits_by_kind(caption, kind, edits):
    assert texts(caption, kind) == edits


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ("around", {"three dogs", "four dogs", "five dogs"}),
        ("above", {"three dogs", "four dogs", "five dogs"}),
        ("below", set()),
    ],
)
def test_counts_stay_on_the_side_that_is_asked_for(counts, expected):
    assert {edit.text for edit in edited_captions("two dogs", (), ("count",), counts)} == expected
    of_four = {edit.text for edit in edited_captions("four dogs", (), ("count",), counts)}
    below, above = {"two dogs", "three dogs"}, {"five dogs"}
    assert of_four == {"around": below | above, "above": above, "below": below}[counts]
    of_one = {edit.text for edit in edited_captions("a dog", (), ("count",), counts)}
    assert bool(of_one) == (counts != "below"), "one dog is the fewest"


@pytest.mark.parametrize("kinds", [kinds for number in (1, 2, 3) for kinds in combinations(EDIT_KINDS, number)])
def test_edits_of_some_kinds_are_those_among_all(kinds):
    caption = "a photo of two red benches left of a blue dog"
    every = edited_captions(caption)
    assert {edit.kind for edit in every} == set(EDIT_KINDS)
    assert edited_captions(caption, (), kinds) == tuple(edit for edit in every if edit.kind in kinds)
    few = drawn_edits(caption, len(kinds), (), kinds)
    assert {edit.kind for edit in few} == set(kinds), "the kinds take turns"


@pytest.mark.parametrize("negation", ["no", "without", "not", "There aren't", "never", "isn’t"])
def test_what_stands_behind_a_negation_is_left_alone(negation):
    assert edited_captions(f"{negation} red dogs on a bed left of two chairs") == ()
    edits = {edit.text for edit in edited_captions(f"two cats {negation} dogs on a bed")}
    assert f"three cats {negation} dogs on a bed" in edits
    assert all(text.endswith(f"{negation} dogs on a bed") for text in edits)


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "...",
        "A group of surfers are riding a wave.",
        "a hotdog and a redhead in a two-story house",
        "a train station",
        "the young child's umbrella",
        "a black man and a white woman",
        "he left the station, right?",
        "two",
    ],
)
def test_nothing_to_edit(caption):
    assert edited_captions(caption) == ()


def test_a_compound_is_not_its_first_word():
    assert all(edit.kind != "object" for edit in edited_captions("a red bus stop near a traffic light pole"))
    assert not any("teddy cat" in text or "hot cat" in text for text in texts("a teddy bear with a hot dog", "object"))


def test_orange_is_a_colour_or_a_fruit():
    assert "a red bus" in texts("an orange bus", "color")
    assert texts("an orange bus", "object")[0] == "an orange bicycle"
    assert texts("an orange", "color") == []
    assert "an apple" in texts("an orange", "object")
    assert "a red and white cat" in texts("an orange and white cat", "color")
    assert not texts("an orange and a cat", "color")


def test_two_colours_change_places_between_objects_but_not_within_one():
    assert "a photo of an orange cat and a red dog" in texts("a photo of a red cat and an orange dog", "color")
    assert "a white and black cat" not in texts("a black and white cat", "color")


@pytest.mark.parametrize(
    "caption",
    ["A dog is sitting", "a dog that barks", "this is a dog", "a dog on a mat has a bone", "the dog", "a dog bowl"],
)
def test_one_becomes_many_only_where_the_sentence_allows_it(caption):
    assert not any("dogs" in text for text in texts(caption, "count"))


def test_what_other_captions_of_the_image_say_is_no_replacement():
    assert "a green bus" not in texts("a red bus", "color", ["the green vehicle"])
    assert "a truck" not in texts("a red bus parked", "object", ["a truck"])
    assert texts("a cow", "count", ["brown cows laying down"]) == []
    assert "three cats" not in texts("two cats", "count", ["three animals"])
    assert "a red cup" not in {edit.text for edit in edited_captions("a blue cup", ["a red cup"])}


def test_every_geneval_prompt_of_a_kind_has_edits_of_that_kind():
    kinds = {"counting": "count", "colors": "color", "position": "position", "color_attr": "color"}
    kinds |= {"single_object": "object", "two_object": "object"}
    for prompt in official_prompts():
        edits = edited_captions(prompt.prompt)
        assert kinds[prompt.tag] in {edit.kind for edit in edits}, prompt.prompt
        assert all(not are_near_duplicates(prompt.prompt, edit.text, 0.0) for edit in edits)


WORLD = [
    Caption((Phrase(shape, count, color),))
    for shape, count, color in product(SHAPES, (1, *COUNT_WORDS), (None, *WORLD_COLORS))
] + [
    Caption((Phrase(one, color=color), Phrase(two)), relation)
    for one, two, color, relation in product(SHAPES, SHAPES, (None, "red"), (None, *POSITIONS))
    if one != two
]


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_the_embedded_worlds_edits_stay_in_its_grammar(kind):
    words = set(vocabulary())
    for caption in WORLD:
        edits = texts(caption.text, kind)
        assert {word for text in edits for word in text.split()} <= words
        if kind in {"color", "object"} and caption.relation is None and len(caption.phrases) == 1:
            assert set(edits) <= {other.text for other in altered_captions(caption)}
        assert edits or kind in {"color", "position"}, caption.text


def test_different_captions_of_the_embedded_world_are_never_near_duplicates():
    """So near-duplicate detection changes nothing in the recipe ``shapes``."""
    threshold = NegativesConfig().max_similarity
    for one, other in combinations({caption.text for caption in WORLD}, 2):
        assert not are_near_duplicates(one, other, threshold), (one, other)


def test_drawn_edits_take_the_kinds_in_turn_and_grow_by_the_end():
    caption = "a photo of a red bus left of two dogs"
    first, more = drawn_edits(caption, 4), drawn_edits(caption, 9)
    assert {edit.kind for edit in first} == set(EDIT_KINDS)
    assert more[:4] == first == drawn_edits(caption, 4)
    assert len(set(more)) == 9
    assert set(drawn_edits(caption, 1000)) == set(edited_captions(caption))
    assert drawn_edits(caption, 0) == ()


def test_replacements_are_drawn_evenly():
    edits = [edit for name in CLASSES[1:] for edit in drawn_edits(f"a red {name} on the grass", 4)]
    firsts = {edit.kind: edit for edit in reversed(edits)}
    assert set(firsts) >= {"count", "color"}
    colors = Counter(edit.text.split()[1] for edit in edits if edit.kind == "color")
    counts = Counter(edit.text.split()[0] for edit in edits if edit.kind == "count")
    assert set(colors) == set(COLORS) - {"red"}
    assert set(counts) == {"two", "three", "four", "five"}
    assert max(colors.values()) < 2 * colors.total() / 9
    assert max(counts.values()) < 2 * counts.total() / 4


WORDS = st.sampled_from(
    [*CLASSES, *COLORS, *SHAPES, *POSITIONS, *COUNT_WORDS.values(), "a", "an", "the", "and", "on", "dogs", "benches",
     "is", "sitting", "photo", "of", "Two", "A", ",", ".", "with"]
)  # fmt: skip
CAPTIONS = st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=40)


@given(CAPTIONS, st.lists(CAPTIONS, max_size=2))
def test_edits_are_new_distinct_deterministic_and_differ_in_their_facts(caption, also_true):
    edits = edited_captions(caption, also_true)
    assert edits == edited_captions(caption, also_true)
    assert len({edit.text for edit in edits}) == len(edits)
    for edit in edits:
        assert edit.text not in {caption, *also_true}
        assert facts_of(edit.text) != facts_of(caption)
        assert not are_near_duplicates(edit.text, caption, 0.0)


@given(CAPTIONS)
def test_a_caption_among_the_others_of_its_image_changes_nothing(caption):
    assert edited_captions(caption, [caption]) == edited_captions(caption)
    assert texts("a sheep", "count", ["a sheep"]) == texts("a sheep", "count") != []


@given(CAPTIONS)
def test_other_captions_only_take_edits_away(caption):
    assert set(edited_captions(caption, ["a red bus", "two zebras"])) <= set(edited_captions(caption))


@pytest.mark.skipif(not COCO.is_file(), reason="needs ../shared/data/coco")
def test_coco_captions():
    captions = [row["caption"] for row in json.loads(COCO.read_text())["annotations"]]
    edits = {caption: edited_captions(caption) for caption in captions}
    kinds = Counter(kind for found in edits.values() for kind in {edit.kind for edit in found})
    assert len(captions) == 400
    assert sum(bool(found) for found in edits.values()) > 200
    assert kinds["object"] > 150 and kinds["count"] > 100 and kinds["color"] > 60 and kinds["position"] >= 2
    for caption, found in edits.items():
        assert all(normal_form(caption) != normal_form(edit.text) for edit in found)
