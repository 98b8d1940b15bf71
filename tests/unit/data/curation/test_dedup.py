"""Duplicates: the banded index finds exactly what a comparison with everything finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from softalign.config import FilterConfig, ShapesSource
from softalign.data.curation import keyed_numbers
from softalign.data.curation.dedup import DuplicateFilter, HammingIndex
from softalign.data.curation.hashing import HASH_BITS, perceptual_hash
from softalign.data.curation.samples import Sample
from softalign.shapes.rendering import captioned_scene
from softalign.shapes.scenes import render_batch


def sample(digest, value=0):
    return Sample("s", f"{digest}.png", ("x",), b"", "png", digest, value, 64, 64)


@pytest.fixture(scope="module", autouse=True)
def put_away_early():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed_numbers, "MAX_RECENT", 8)
        yield


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=200))
def test_numbers_are_found_under_their_keys_in_the_order_in_which_they_came(keys):
    spread = [key * (2**64 - 1) // 9 for key in keys]
    found, expected = keyed_numbers.KeyedNumbers(), {}
    for number, key in enumerate(spread):
        assert list(found.find(key)) == expected.get(key, [])
        found.add(key, number)
        expected.setdefault(key, []).append(number)
    assert {key: list(found.find(key)) for key in expected} == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_the_index_misses_nothing_and_invents_nothing(max_distance, seed):
    rng = np.random.default_rng(seed)
    index, known = HammingIndex(max_distance, num_bits=32), []
    for _ in range(60):
        value = int(rng.integers(0, 2**32))
        if known and rng.random() < 0.7:
            value = known[int(rng.integers(len(known)))]
            for bit in rng.permutation(32)[: int(rng.integers(0, 2 * max_distance + 2))]:
                value ^= 1 << int(bit)
        is_near = any((value ^ other).bit_count() <= max_distance for other in known)
        found = index.find(value)
        assert (found is not None) == is_near
        assert found is None or (found ^ value).bit_count() <= max_distance
        index.add(value)
        known.append(value)


def test_distance_zero_and_the_largest_configurable_one():
    for max_distance in (0, 64):
        index = HammingIndex(max_distance)
        index.add(2**HASH_BITS - 1)
        near = (2**HASH_BITS - 1) ^ (2**max_distance - 1)
        assert index.find(near) is not None
        assert index.find(near ^ (1 << 200)) is None


def test_exact_duplicates_name_what_they_repeat():
    duplicates = DuplicateFilter(FilterConfig(max_hash_distance=-1))
    assert duplicates.check(sample("a" * 64)) is None
    duplicates.accept("a" * 64, 0)
    rejection = duplicates.check(sample("a" * 64))
    assert rejection.reason == "exact_duplicate"
    assert "a" * 16 in rejection.detail
    assert duplicates.check(sample("b" * 64)) is None, "-1 means no perceptual deduplication"


def test_perceptual_duplicates_within_the_distance():
    duplicates = DuplicateFilter(FilterConfig(max_hash_distance=2))
    duplicates.accept("a" * 64, 0b1111)
    assert duplicates.check(sample("b" * 64, 0b1100)).reason == "perceptual_duplicate"
    assert duplicates.check(sample("b" * 64, 0b1000)) is None


def test_exact_duplicates_can_be_kept():
    duplicates = DuplicateFilter(FilterConfig(drop_exact_duplicates=False))
    duplicates.accept("a" * 64, 5)
    assert duplicates.check(sample("a" * 64, 5)) is None
    assert duplicates.check(sample("b" * 64, 5)).reason == "perceptual_duplicate"


@pytest.mark.parametrize("max_distance", [FilterConfig().max_hash_distance])
def test_scenes_that_differ_are_kept(max_distance):
    source = ShapesSource(seed=3)
    scenes = [captioned_scene(source, index)[0] for index in range(800)]
    duplicates, kept, wrongly_rejected = DuplicateFilter(FilterConfig(max_hash_distance=max_distance)), set(), 0
    for number, (scene, pixels) in enumerate(zip(scenes, render_batch(scenes), strict=True)):
        words = frozenset((o.shape, o.color, o.row, o.column) for o in scene.objects)
        candidate = sample(f"{number:064d}", perceptual_hash(Image.fromarray(pixels)))
        if duplicates.check(candidate) is None:
            duplicates.accept(candidate.image_digest, candidate.perceptual_hash)
            kept.add(words)
        elif words not in kept:
            wrongly_rejected += 1
    assert wrongly_rejected <= 0.01 * len(scenes), "measured: 0.2 %"
