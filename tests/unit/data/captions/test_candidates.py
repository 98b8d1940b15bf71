"""Candidates: as many negatives as asked for where there are so many, never a near-duplicate, all of them in time."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softalign.config import NegativesConfig
from softalign.data.captions.candidates import choose_candidates
from softalign.data.captions.similarity import are_near_duplicates

CAPTIONS = ("a red cup", "two dogs", "a bus left of a bench", "surfers", "a kite above a boat")
EDITS = (
    ("a blue cup", "a green cup", "a red bowl"),
    ("three dogs", "four dogs"),
    ("a bus right of a bench",),
    (),
    ("x", "y"),
)


def choose(config, captions=CAPTIONS, edits=EDITS, seed=0):
    return choose_candidates(captions, edits, config, np.random.default_rng(seed))


def test_by_default_all_others_of_the_batch():
    chosen = choose(NegativesConfig())
    assert chosen.hard_negatives == ()
    assert [set(row) for row in chosen.rows] == [set(range(5))] * 5
    assert [row[0] for row in chosen.rows] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num", [1, 2, 3])
def test_one_to_k_negatives_are_drawn_evenly(num):
    counts = Counter()
    for seed in range(400):
        rows = choose(NegativesConfig(num_negatives=num), seed=seed).rows
        assert all(len(set(row)) == 1 + num and row[0] == image for image, row in enumerate(rows))
        counts.update(rows[0][1:])
    assert set(counts) == {1, 2, 3, 4}
    assert max(counts.values()) < 1.25 * 400 * num / 4


def test_hard_ones_take_their_places_and_others_fill_in_where_there_are_too_few():
    chosen = choose(NegativesConfig(num_negatives=4, num_hard=2))
    texts = (*CAPTIONS, *chosen.hard_negatives)
    hard = [[texts[place] for place in row if place >= 5] for row in chosen.rows]
    assert [len(edits) for edits in hard] == [2, 2, 1, 0, 2]
    assert all(set(edits) <= set(own) for edits, own in zip(hard, EDITS, strict=True))
    assert [len(row) for row in chosen.rows] == [5] * 5
    assert sorted(place for row in chosen.rows for place in row if place >= 5) == [*range(5, len(texts))]


def test_all_hard():
    chosen = choose(NegativesConfig(num_negatives=2, num_hard=2))
    assert [sum(place < 5 for place in row) - 1 for row in chosen.rows] == [0, 0, 1, 2, 0]


def test_equal_captions_leave_each_image_alone_and_edits_help():
    captions = ("A dog", "a dog.", "the dog")
    assert choose(NegativesConfig(), captions, ((), (), ())).rows == ((0,), (1,), (2,))
    edits = (("a cat",), (), ("a cow",))
    found = choose(NegativesConfig(num_negatives=1, num_hard=1), captions, edits)
    assert (found.rows, found.hard_negatives) == (((0, 3), (1,), (2, 4)), ("a cat", "a cow"))


def test_one_image():
    assert choose(NegativesConfig(), CAPTIONS[:1], EDITS[:1]).rows == ((0,),)
    found = choose(NegativesConfig(num_negatives=2, num_hard=2), CAPTIONS[:1], EDITS[:1])
    assert len(found.rows[0]) == 3 and set(found.hard_negatives) <= set(EDITS[0])


WORDS = st.lists(st.sampled_from(["a", "red", "blue", "dog", "man", "walks", "slowly", "two"]), max_size=6).map(
    " ".join
)


@given(
    st.lists(WORDS, min_size=1, max_size=6),
    st.integers(1, 8) | st.none(),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_rows_hold_what_they_may(captions, num, share, max_similarity, seed):
    num_hard = int(NegativesConfig(num_negatives=num).num_of(len(captions)) * share)
    config = NegativesConfig(num_negatives=num, num_hard=num_hard, max_similarity=max_similarity)
    edits = [[f"{caption} {n}" for n in range(n_edits % 4)] for n_edits, caption in enumerate(captions)]
    chosen = choose(config, captions, edits, seed)
    assert chosen == choose(config, captions, edits, seed)
    for image, row in enumerate(chosen.rows):
        others = [place for place in row[1:] if place < len(captions)]
        allowed = [
            place
            for place, other in enumerate(captions)
            if place != image and not are_near_duplicates(captions[image], other, max_similarity)
        ]
        hard = [chosen.hard_negatives[place - len(captions)] for place in row if place >= len(captions)]
        assert row[0] == image and set(others) <= set(allowed) and set(hard) <= set(edits[image])
        assert len(hard) == min(len(edits[image]), num_hard)
        assert len(others) == min(len(allowed), config.num_of(len(captions)) - len(hard))
