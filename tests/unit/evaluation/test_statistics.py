"""p-values, Holm's correction, wins and detectable differences: exact properties, and values from elsewhere."""

import itertools
from collections import Counter

import numpy as np
import pytest

from softalign.config import EvalConfig
from softalign.evaluation.differences import planned_for
from softalign.evaluation.intervals import OVERALL, Interval, PromptCounts, paired_intervals
from softalign.evaluation.statistics import (
    Components,
    Outcomes,
    flip_p_value,
    flip_p_values,
    holm,
    outcomes_by_tag,
    planned_detectable,
    task_statistics,
)


def p_of(terms, num_flips=10_000, seed=0):
    return flip_p_value(np.array(terms, dtype=float), num_flips=num_flips, rng=np.random.default_rng(seed))


def outcomes(gained, lost, images=4):
    return Outcomes(np.array(gained), np.array(lost), np.full(len(gained), images))


def test_few_prompts_are_looked_at_in_every_pattern():
    terms = np.array([3, -1, 2, 2, 4, 0, 1])
    sums = [
        abs(sum(s * t for s, t in zip(signs, terms, strict=True))) for signs in itertools.product((1, -1), repeat=7)
    ]
    assert p_of(terms) == np.mean([found >= abs(terms.sum()) for found in sums])
    assert p_of([1] * 10) == 2 / 2**10  # all ten gained: nothing is as far but all ten lost
    assert p_of([]) == p_of([0, 0]) == p_of([1, -1]) == 1.0


@pytest.mark.parametrize("num_flips", [10_000, 99], ids=["every pattern", "drawn"])
def test_the_error_rate_is_exact_whatever_the_differences_are(num_flips):
    sizes = np.array([1, 1, 2, 3, 3, 4, 1, 2, 4])
    patterns = list(itertools.product((1, -1), repeat=len(sizes)))
    found = [p_of(sizes * signs, num_flips, seed) for seed, signs in enumerate(patterns)]
    for level in (0.01, 0.05, 0.2, 0.5):
        share = np.mean([p_value <= level for p_value in found])
        # of all patterns exactly: never more than the level; of drawn ones within three standard errors
        noise = 0.0 if num_flips > 512 else 3 * (level * (1 - level) / len(found)) ** 0.5
        assert share <= level + noise


def test_drawn_patterns_are_near_the_exact_share_and_never_zero():
    terms = np.random.default_rng(3).integers(-2, 4, size=14)
    assert p_of(terms, 10_000) == pytest.approx(p_of(terms, 2**14), abs=0.015)
    assert p_of([1] * 200) == 1 / 10_001
    assert p_of([1] * 40 + [-1] * 20) == p_of([1] * 40 + [-1] * 20)


def test_images_of_a_prompt_that_agree_are_no_evidence_of_their_own():
    alike = flip_p_values({"colors": outcomes([4] * 6 + [0] * 2, [0] * 6 + [4] * 2)}, num_flips=10_000, seed=0)
    single = flip_p_values({"colors": outcomes([1] * 6 + [0] * 2, [0] * 6 + [1] * 2, 1)}, num_flips=10_000, seed=0)
    assert alike == single
    assert alike["colors"] == alike[OVERALL] == 2 * (1 + 8 + 28) / 2**8  # the sign test's


def test_the_overall_value_weighs_tags_alike():
    by_tag = {"few": outcomes([4] * 4, [0] * 4), "many": outcomes([0] * 60, [1] * 30 + [0] * 30)}
    found = flip_p_values(by_tag, num_flips=10_000, seed=0)
    assert found["few"] == 2 / 2**4
    assert found["many"] < 0.001
    assert found[OVERALL] > 0.1  # +1 and -0.125, where the four prompts of one tag alone may turn round


def test_correction_for_the_number_of_tags():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}  # R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_wins_and_losses_are_images_and_prompts_where_only_one_is_right():
    rows = [("colors", "0", True, False), ("colors", "0", True, True), ("colors", "1", False, True)]
    found = outcomes_by_tag([*rows, ("counting", "2", False, False), ("colors", "1", True, False)])
    tags = {tag: Interval(0.0, -0.1, 0.1) for tag in ("counting", "colors", OVERALL)}
    counting, colors, overall = task_statistics(found, tags, critical=1.959964, seed=0)
    assert (counting.tag, counting.wins, counting.losses, counting.p_value) == ("counting", 0, 0, 1.0)
    assert (colors.wins, colors.losses, colors.prompts_better, colors.prompts_worse) == (2, 1, 1, 0)
    assert (overall.wins, overall.losses, overall.p_adjusted) == (2, 1, None)
    assert colors.detectable == pytest.approx(0.1 / 1.960 * (1.960 + 0.842), abs=1e-4)


def test_a_planned_difference_is_found_in_four_cases_of_five():
    """Comparisons drawn with the assumed variance find the planned difference as often as it is said."""
    components, prompts, images = Components(between=0.01, within=0.2), (60, 90), 4
    planned = planned_detectable(prompts, images, confidence=0.95, components=components)
    rng = np.random.default_rng(0)
    error = planned / (1.959964 + 0.841621)
    found = np.mean(
        [rng.normal(planned, components.variance_of_mean(images) ** 0.5, (4000, num)).mean(1) for num in prompts],
        axis=0,
    )
    assert np.mean(found > 1.959964 * error) == pytest.approx(0.8, abs=0.02)
    more_images = planned_detectable(prompts, 16, confidence=0.95, components=components)
    assert planned / 2 < more_images < planned  # prompts' own differences stay
    config = EvalConfig(images_per_prompt=4)
    from softalign.evaluation.suites import suite_prompts

    numbers = Counter(prompt.tag for prompt in suite_prompts(config)).values()
    assert planned_for(config) == planned_detectable(numbers, 4, confidence=0.95)


def test_a_suites_own_tag_has_an_interval():
    rng = np.random.default_rng(0)
    mine, theirs = (PromptCounts(rng.integers(0, 5, 40), np.full(40, 4)) for _ in range(2))
    settings = {"num_bootstrap": 500, "confidence": 0.95, "seed": 0}
    found = paired_intervals({"emotion": mine, "colors": mine}, {"emotion": theirs, "colors": theirs}, **settings)
    assert found["emotion"].value == found["colors"].value
    assert found["emotion"] != found["colors"]  # other resamples
    assert found["emotion"] == paired_intervals({"emotion": mine}, {"emotion": theirs}, **settings)["emotion"]
