"""The gate's answer after a round, from verdicts; and that its own intervals then say the same."""

import numpy as np
import pytest

from softalign.config import EvalConfig, PromotionPolicy
from softalign.evaluation.deciding_early import gate_answer
from softalign.evaluation.differences import compare_pairs, differences
from softalign.evaluation.looks import answer_after, verdicts_until
from softalign.geneval.layout import image_filename
from softalign.geneval.scoring import RESULTS_FILENAME, ImageResult, write_results

TAGS = ("colors", "counting")
CONFIG = EvalConfig(suite="shapes", images_per_prompt=4, num_bootstrap=400, stop="after 2")


def results(chance, seed, rounds=2, prompts=60):
    rng = np.random.default_rng(seed)
    return tuple(
        ImageResult(
            filename=image_filename(prompt, image),
            tag=TAGS[prompt % 2],
            prompt="p",
            correct=bool(rng.random() < chance),
            reason="",
            metadata="",
            details="",
        )
        for prompt in range(prompts)
        for image in range(rounds)
    )


def arms(adapter, base=0.3, **more):
    chances = {"base": base, "untrained": base, "adapter": adapter, **more}
    return {arm: results(chance, list(arm.encode())) for arm, chance in chances.items()}


def test_the_answer_is_that_of_the_differences_by_prompt_and_round():
    assert answer_after(arms(0.8), CONFIG, PromotionPolicy()) == "yes"
    assert answer_after(arms(0.1), CONFIG, PromotionPolicy()) == "no"
    assert answer_after(arms(0.8, champion=0.8), CONFIG, PromotionPolicy()) != "yes"
    assert answer_after(arms(0.8, champion=0.3), CONFIG, PromotionPolicy()) == "yes"
    assert answer_after(arms(0.8), CONFIG, PromotionPolicy(min_images=121)) == "open"


def test_an_answer_before_the_last_round_is_the_gates_own_intervals_too(monkeypatch):
    monkeypatch.setattr("softalign.evaluation.looks.gate_answer", lambda *_, **__: "yes")
    unclear = arms(0.36)
    pairs = compare_pairs(*(unclear[arm] for arm in ("adapter", "untrained", "base")), config=CONFIG)
    low = next(one for one in pairs.over_base.differences if one.tag == "overall")
    assert low.difference > 0 > low.ci_low
    assert answer_after(unclear, CONFIG, PromotionPolicy()) == "open"
    at_most = PromotionPolicy(max_drop_below_champion=-low.ci_low - 1e-4, requires_significant_gain=False)
    unclear["champion"] = unclear["base"]  # the same interval
    assert answer_after(unclear, CONFIG, at_most) == "open"
    just = at_most.model_copy(update={"max_drop_below_champion": -low.ci_low + 1e-4})
    assert answer_after(unclear, CONFIG, just) == "yes"
    last = CONFIG.model_copy(update={"images_per_prompt": 2})
    assert answer_after(unclear, last, PromotionPolicy()) == "yes"  # the gate decides


def test_intervals_of_a_round_reach_further_about_the_same_estimates_and_the_file_says_so():
    mine, theirs = results(0.5, 1), results(0.4, 2)
    plain = differences(mine, theirs, CONFIG)
    pairs = compare_pairs(mine, theirs, theirs, config=CONFIG)
    stopping = pairs.statistics.stopping
    assert (stopping.rounds, stopping.of_rounds) == (2, 4)
    assert stopping.widening == pytest.approx(2.963 / 1.960, abs=1e-3)
    for one, other in zip(pairs.over_base.differences, plain, strict=True):
        assert one.difference == other.difference
        assert one.ci_low - one.difference == pytest.approx(
            stopping.widening * (other.ci_low - one.difference), abs=1e-6
        )
    assert '"boundary": 2.96' in pairs.statistics.to_json() and "answer was certain then" in pairs.statistics.to_json()
    never = compare_pairs(mine, theirs, theirs, config=CONFIG.model_copy(update={"stop": "never"}))
    assert never.over_base.differences == plain and "stop" not in never.statistics.to_json()


def test_verdicts_of_the_first_rounds_are_taken_from_a_longer_evaluation(tmp_path):
    write_results(tmp_path / RESULTS_FILENAME, results(0.5, 0, rounds=4))
    found = verdicts_until(tmp_path, 2)
    assert [one.filename for one in found] == [one.filename for one in results(0.5, 0, rounds=2)]


def test_an_adapter_that_changes_nothing_is_hopeless_and_one_that_mends_all_is_promoted():
    for value, rounds, expected in ((0, 1, "open"), (0, 2, "no"), (0, 4, "no"), (1, 1, "yes"), (1, 4, "yes")):
        alike = {tag: np.full((30, rounds), value, dtype=np.int8) for tag in TAGS}
        assert gate_answer(PromotionPolicy(), alike, alike, num_rounds=4, confidence=0.95) == expected
