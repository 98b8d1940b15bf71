"""Deciding early: what is certain after a round, and, simulated, error rates and savings."""

import numpy as np
import pytest

from softalign.config.registration import Guard, PromotionPolicy
from softalign.evaluation.deciding_early import Condition, Estimate, gate_answer, overall_estimate, tag_estimate
from softalign.registry.spending import equal_boundaries
from tests.bench.sequential import EFFECTS, GATE, QUESTION, most_erring, simulate

BOUNDS = equal_boundaries(4, 0.025)


def images(gain, rounds, prompts=100, seed=0, spread=0.0):
    """Return differences of (P, R) images with a mean, and prompts that differ by a standard deviation."""
    rng = np.random.default_rng(seed)
    chances = np.clip(0.4 + gain + spread * rng.standard_normal((prompts, 1)), 0, 1)
    return (rng.random((prompts, rounds)) < chances).astype(np.int8) - (rng.random((prompts, rounds)) < 0.4)


def answer_of(policy, over_base, over_untrained=None, over_champion=None, **options):
    untrained = over_base if over_untrained is None else over_untrained
    return gate_answer(policy, over_base, untrained, over_champion, num_rounds=4, confidence=0.95, **options)


def test_variance_is_that_over_prompts_and_what_is_left_is_predicted():
    rounds = images(0.1, 4, prompts=40_000, spread=0.2)
    seen, whole = tag_estimate(rounds[:, :2], 4), tag_estimate(rounds, 4)
    assert seen.value == pytest.approx(rounds[:, :2].mean())
    assert whole.variance == whole.final_variance == pytest.approx(rounds.mean(axis=1).var(ddof=1) / 40_000)
    assert seen.final_variance == pytest.approx(whole.variance, rel=0.05)
    first = tag_estimate(rounds[:, :1], 4)
    assert first.final_variance == pytest.approx(first.variance / 4)  # what prompts differ by is not told from chance


def test_chances_of_the_final_estimate_come_true():
    threshold, chances, reached = 0.1, [], []
    for seed in range(1500):
        rounds = images(np.random.default_rng([9, seed]).normal(0.1, 0.2), 4, prompts=60, seed=seed)
        chances.append(tag_estimate(rounds[:, :2], 4).chance_above(threshold))
        reached.append(rounds.mean() >= threshold)
    chances, reached = np.array(chances), np.array(reached)
    for low, high in ((0.0, 0.05), (0.05, 0.5), (0.5, 0.95), (0.95, 1.0)):
        within = (chances >= low) & (chances <= high)
        assert reached[within].mean() == pytest.approx(chances[within].mean(), abs=0.1)


def test_an_interval_is_certain_beyond_its_boundary_and_an_estimate_where_little_is_left():
    def interval(value, sd, final_sd=0.01):
        return Condition("x", Estimate(value, sd**2, final_sd**2), 0.0, is_of_interval=True)

    assert interval(0.09, 0.02).answer(BOUNDS, 0) == "yes"  # 4.5 standard errors
    assert interval(0.08, 0.02).answer(BOUNDS, 0) == "open"  # 4.0
    assert interval(0.08, 0.02).answer(BOUNDS, 1) == "yes"
    assert interval(-0.02, 0.02).answer(BOUNDS, 1) == "no"
    assert interval(0.0201, 0.01).answer(BOUNDS, 3) == "no"  # wider than the plain 1.96
    assert interval(0.0202, 0.01).answer(BOUNDS, 3) == "yes"
    assert interval(0.0, 0.0, 0.0).answer(BOUNDS, 3) == "no"
    estimate = Condition("x", Estimate(0.05, 0.02**2, 0.01**2), 0.0, is_of_interval=False)
    assert estimate.answer(BOUNDS, 0) == "yes"
    assert Condition("x", estimate.estimate, 0.04, is_of_interval=False).answer(BOUNDS, 0) == "open"
    assert Condition("x", estimate.estimate, 0.1, is_of_interval=False).answer(BOUNDS, 0) == "no"
    last = Estimate(0.02, 0.01**2, 0.01**2)
    assert Condition("x", last, 0.02, is_of_interval=False).answer(BOUNDS, 3) == "yes"  # as the gate: at least


def test_a_large_gain_is_promoted_early_unless_another_condition_is_open():
    gains = {"colors": images(0.3, 2), "counting": images(0.3, 2, seed=1)}
    none = {tag: images(0.0, 2, seed=5) for tag in gains}
    policy = PromotionPolicy()
    assert answer_of(policy, gains) == "yes"
    assert answer_of(policy, gains, none) != "yes"
    assert answer_of(policy, gains, over_champion=gains) == "yes"
    assert answer_of(policy, gains, over_champion={tag: images(-0.3, 2, seed=6) for tag in gains}) == "no"
    assert (
        answer_of(policy.model_copy(update={"guards": (Guard(metric="overall_adapter", at_least=0.1),)}), gains)
        == "open"
    )
    assert answer_of(policy.model_copy(update={"min_images": 401}), gains) == "open"
    assert answer_of(policy.model_copy(update={"min_images": 400}), gains) == "yes"


def test_a_tag_that_falls_is_hopeless_and_who_draws_on_says_so():
    fallen = {"colors": images(0.4, 2), "counting": images(-0.35, 2, seed=1)}
    policy = PromotionPolicy(must_beat_untrained=False)
    assert answer_of(policy, fallen) == "no"
    assert answer_of(policy, fallen, is_stopped_when_hopeless=False) == "open"
    whole = {tag: np.concatenate([one, one], axis=1) for tag, one in fallen.items()}
    assert answer_of(policy, whole, is_stopped_when_hopeless=False) == "no"


def test_tags_weigh_alike_overall():
    few, many = images(0.4, 2, prompts=20), images(0.0, 2, prompts=200)
    found = overall_estimate({"few": few, "many": many}, 4)
    assert found.value == pytest.approx((few.mean() + many.mean()) / 2)
    parts = [tag_estimate(one, 4).variance for one in (few, many)]
    assert found.variance == pytest.approx(sum(parts) / 4)


@pytest.mark.parametrize("effect", ["nil", "large"])
def test_simulated_evaluations_keep_the_error_rate_and_save_images(effect):
    found = simulate(EFFECTS[effect], GATE, 200)
    assert found.images <= 0.6
    assert found.same >= 0.95
    if effect == "nil":
        assert found.promoted <= most_erring(0.025, 200)
    else:
        assert found.promoted >= 0.95


@pytest.mark.slow
def test_many_simulated_evaluations_keep_the_error_rate_and_save_images():
    number = 2000
    for policy in (GATE, QUESTION):
        nil, large = (simulate(EFFECTS[effect], policy, number) for effect in ("nil", "large"))
        assert nil.promoted <= most_erring(0.025, number)
        assert max(nil.images, large.images) <= 0.6
        assert large.promoted >= 0.99
    never_hopeless = simulate(0.0, QUESTION, number, is_stopped_when_hopeless=False)
    assert never_hopeless.promoted <= most_erring(0.025, number)
    for effect in ("small", "the gate's threshold"):
        found = simulate(EFFECTS[effect], GATE, number)
        assert found.promoted <= found.promoted_at_once + 0.01
        assert found.same >= 0.93
