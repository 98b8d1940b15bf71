"""A retrain while a seeded script kills the stack's parts (slow: a quarter of an hour a seed)."""

import random

import pytest

from tests.chaos.run import SHORT, holds, lacking


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_disturbed_retrain_ends_as_an_undisturbed_one(seed):
    if absent := lacking():
        pytest.skip(f"needs {', '.join(absent)}")
    assert holds(random.Random(seed), num_faults=30, every_s=15.0, overrides=SHORT)
