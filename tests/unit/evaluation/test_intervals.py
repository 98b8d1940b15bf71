import numpy as np
import pytest

from softalign.evaluation.intervals import OVERALL, PromptCounts, counts_by_tag, paired_intervals, score_intervals
from softalign.geneval.scoring import ImageResult

SETTINGS = {"num_bootstrap": 2000, "confidence": 0.95, "seed": 0}


def counts(correct, images=4):
    return PromptCounts(correct_P=np.array(correct), images_P=np.full(len(correct), images))


def result(folder, image, tag, correct):
    filename = f"{folder:05d}/samples/{image:04d}.png"
    return ImageResult(filename=filename, tag=tag, prompt="", correct=correct, reason="", metadata="", details="")


def test_images_are_counted_per_prompt():
    results = [result(0, 0, "colors", True), result(0, 1, "colors", False), result(1, 0, "colors", True)]
    found = counts_by_tag([*results, result(2, 0, "counting", False)])
    assert list(found) == ["counting", "colors"]  # the official order
    assert found["colors"].correct_P.tolist() == [1, 1]
    assert found["colors"].images_P.tolist() == [2, 1]


def test_scores_and_overall_are_what_they_are_called():
    found = score_intervals({"counting": counts([0, 4]), "colors": counts([4, 4])}, **SETTINGS)
    assert found["counting"].value == 0.5
    assert found["colors"].value == found["colors"].low == found["colors"].high == 1.0
    assert found[OVERALL].value == 0.75


def test_the_interval_has_the_width_of_the_sampling_error():
    rng = np.random.default_rng(0)
    correct = rng.integers(0, 5, size=400)
    interval = score_intervals({"colors": counts(correct)}, **SETTINGS)["colors"]
    standard_error = (correct / 4).std() / 20
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * standard_error, rel=0.08)


def test_images_that_agree_widen_the_interval():
    independent = score_intervals({"colors": counts([2] * 50 + [3] * 50)}, **SETTINGS)["colors"]
    agreeing = score_intervals({"colors": counts([0, 4] * 50)}, **SETTINGS)["colors"]
    assert agreeing.high - agreeing.low > 3 * (independent.high - independent.low)


def test_a_wider_confidence_is_a_wider_interval():
    by_tag = {"colors": counts([0, 4, 1, 2, 3] * 10)}
    narrow = score_intervals(by_tag, **{**SETTINGS, "confidence": 0.8})["colors"]
    wide = score_intervals(by_tag, **{**SETTINGS, "confidence": 0.99})["colors"]
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_one_tag_does_not_depend_on_the_others_being_there():
    colors = counts([0, 4, 1, 2, 3])
    alone = score_intervals({"colors": colors}, **SETTINGS)["colors"]
    among = score_intervals({"counting": counts([1, 2]), "colors": colors}, **SETTINGS)["colors"]
    assert alone == among


def test_pairing_removes_what_prompts_share():
    rng = np.random.default_rng(1)
    base = rng.integers(0, 4, size=100)
    interval = paired_intervals({"colors": counts(base + 1)}, {"colors": counts(base)}, **SETTINGS)
    assert interval["colors"].value == interval["colors"].low == interval["colors"].high == 0.25
    assert interval[OVERALL].value == 0.25
    same = paired_intervals({"colors": counts(base)}, {"colors": counts(base)}, **SETTINGS)[OVERALL]
    assert same.value == same.low == same.high == 0.0


def test_the_seed_decides_the_resamples():
    by_tag = {"colors": counts([0, 4, 1, 2, 3, 3, 0])}
    first = score_intervals(by_tag, **SETTINGS)
    assert first == score_intervals(by_tag, **SETTINGS)
    assert first != score_intervals(by_tag, **{**SETTINGS, "seed": 1, "num_bootstrap": 101})
