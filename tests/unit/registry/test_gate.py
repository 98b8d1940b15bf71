import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from softalign.artifacts import PairEvidence
from softalign.config import PromotionPolicy
from softalign.config.registration import Guard
from softalign.errors import ConfigError, DataError
from softalign.registry.gate import PresentChampion, decide
from softalign.registry.spending import equal_boundaries
from softalign.registry.sureness import stopping_after
from tests.registry_samples import BASE, TAGS, comparison_of

POLICY = PromotionPolicy()
scores = st.floats(-0.5, 0.5, allow_nan=False)
policies = st.builds(
    PromotionPolicy,
    min_overall_gain=st.floats(-0.2, 0.2),
    requires_significant_gain=st.booleans(),
    max_tag_drop=st.floats(0.0, 0.3),
    must_beat_untrained=st.booleans(),
)


def failed(decision):
    return [check.name for check in decision.checks if not check.is_passed]


def test_a_good_candidate_without_champion_is_promoted():
    decision = decide(comparison_of(0.1), None, POLICY)
    assert decision.is_promoted and decision.alias == "champion"
    assert [check.name for check in decision.checks] == [
        "overall_gain",
        "gain_significant",
        *(f"tag_drop:{tag}" for tag in TAGS),
        "untrained_gain_significant",
    ]
    assert "no scored champion" in decision.reason


@pytest.mark.parametrize(("p_value", "look", "is_promoted"), [(0.05, 1, True), (0.0625, 1, False), (0.03, 2, False)])
def test_intervals_of_too_few_prompts_promote_nothing(p_value, look, is_promoted):
    evidence = PairEvidence(p_value=p_value, wins=6, losses=0, detectable=0.0)
    candidate = comparison_of(0.25, half_width=0.0).model_copy(update={"over_base": evidence, "confidence": 0.95})
    decision = decide(candidate, None, POLICY, look=look)
    assert decision.is_promoted == is_promoted
    assert failed(decision) == ([] if is_promoted else ["gain_by_exchange"])
    assert is_promoted or "too few prompts" in decision.reason
    sure = evidence.model_copy(update={"p_value": 0.001})
    beside = candidate.model_copy(update={"over_base": sure, "over_untrained": evidence})
    decision = decide(beside, None, POLICY, look=look)
    assert failed(decision) == ([] if is_promoted else ["untrained_gain_by_exchange"])
    assert is_promoted or "better than untrained tokens: exchanging" in decision.reason


@pytest.mark.parametrize(
    ("candidate", "policy", "expected"),
    [
        (comparison_of(0.04), PromotionPolicy(min_overall_gain=0.05), "overall_gain"),
        (comparison_of(0.01, half_width=0.02, over_untrained=0.1), POLICY, "gain_significant"),
        (comparison_of(0.02, half_width=0.02, over_untrained=0.1), POLICY, "gain_significant"),
        (comparison_of(0.1, drop=0.06), POLICY, f"tag_drop:{TAGS[-1]}"),
        (comparison_of(0.1, over_untrained=0.01, half_width=0.02), POLICY, "untrained_gain_significant"),
        (comparison_of(0.1, over_untrained=0.02, half_width=0.02), POLICY, "untrained_gain_significant"),
        (comparison_of(0.1, over_untrained=0.0), PromotionPolicy(requires_significant_gain=False), "beats_untrained"),
        (comparison_of(0.1, over_untrained=-0.01), POLICY, "beats_untrained"),
    ],
)
def test_each_condition_alone_holds_a_candidate_back_and_is_named(candidate, policy, expected):
    decision = decide(candidate, None, policy)
    assert not decision.is_promoted and decision.alias == "challenger"
    assert failed(decision) == [expected]
    assert str(next(check for check in decision.checks if check.name == expected)) in decision.reason


@pytest.mark.parametrize(
    ("candidate", "policy", "sentence"),
    [
        (
            comparison_of(0.04),
            PromotionPolicy(min_overall_gain=0.05),
            "Not promoted: the gain over the base is +4.0 points, less than the +5.0 asked. It has ",
        ),
        (
            comparison_of(0.01, half_width=0.02, over_untrained=0.1),
            POLICY,
            "not enough to say it is better than the base: +1.0 points, and the interval reaches from -1.0 to +3.0.",
        ),
        (comparison_of(0.1, drop=0.06), POLICY, f"{TAGS[-1]} fell by 6.0 points, more than the 5.0 allowed."),
        (comparison_of(0.1, over_untrained=0.0), POLICY, "it does not beat untrained tokens (+0.0 points)."),
        (
            comparison_of(0.1, over_untrained=0.01, half_width=0.02),
            POLICY,
            "better than untrained tokens: +1.0 points, and the interval reaches from -1.0 to +3.0.",
        ),
    ],
)
def test_reasons_are_sentences_in_points(candidate, policy, sentence):
    reason = decide(candidate, None, policy).reason
    assert sentence in reason
    assert "measured" not in reason and "_" not in reason.replace(TAGS[-1], "")


def test_every_check_has_a_sentence_passed_and_failed():
    checks = decide(comparison_of(0.1), comparison_of(0.1), POLICY).checks
    sentences = {str(check.model_copy(update={"is_passed": is_passed})) for check in checks for is_passed in (0, 1)}
    assert len(sentences) == 2 * len(checks)


@pytest.mark.parametrize(
    ("candidate", "policy"),
    [
        (comparison_of(0.01, half_width=0.02), PromotionPolicy(requires_significant_gain=False)),
        (comparison_of(0.1, drop=0.06), PromotionPolicy(max_tag_drop=0.06)),
        (comparison_of(0.1, over_untrained=-0.01), PromotionPolicy(must_beat_untrained=False)),
        (comparison_of(-0.01), PromotionPolicy(min_overall_gain=-0.01, requires_significant_gain=False)),
    ],
)
def test_each_field_of_the_policy_has_an_effect(candidate, policy):
    assert decide(candidate, None, policy.model_copy(update={"must_beat_untrained": False})).is_promoted
    assert not decide(candidate, None, POLICY).is_promoted


def test_a_drop_of_exactly_the_margin_passes():
    drop = 0.25 - 0.2  # 0.04999999999999999 and 0.05000000000000002 are the same drop
    assert decide(comparison_of(0.1, drop=0.3 - 0.25), None, POLICY).is_promoted
    assert decide(comparison_of(0.1, drop=drop), None, POLICY).is_promoted


def test_below_the_champion_is_held_back_and_a_tie_is_not():
    champion = comparison_of(0.1)
    assert failed(decide(comparison_of(0.09), champion, POLICY)) == ["not_below_champion"]
    tie = decide(comparison_of(0.1), champion, POLICY)
    assert tie.is_promoted and "unpaired" in tie.reason


@pytest.mark.parametrize(
    "champion",
    [
        comparison_of(0.3, suite="geneval"),
        comparison_of(0.3, num_images=12),
        comparison_of(0.3, guidance_scale=2.0),
        comparison_of(0.3, guidance_scale=None),
    ],
    ids=["suite", "images", "guidance", "before guidance was recorded"],
)
def test_a_champion_of_another_evaluation_is_not_compared_and_the_reason_says_so(champion):
    decision = decide(comparison_of(0.1), champion, POLICY)
    assert decision.is_promoted
    assert "Not compared with the champion" in decision.reason and champion.suite in decision.reason


def test_a_comparison_without_overall_difference_is_refused():
    candidate = comparison_of(0.1)
    for field in ("adapter_vs_base", "adapter_vs_untrained"):
        broken = candidate.model_copy(update={field: getattr(candidate, field)[1:]})
        with pytest.raises(DataError, match="no overall difference"):
            decide(broken, None, POLICY)


def better(comparison, by):
    """Return the same comparison with every score and difference raised."""

    def raised(differences):
        return tuple(
            entry.model_copy(
                update={name: getattr(entry, name) + by for name in ("difference", "ci_low", "ci_high")},
            )
            for entry in differences
        )

    return comparison.model_copy(
        update={
            "overall_adapter": comparison.overall_adapter + by,
            "adapter_vs_base": raised(comparison.adapter_vs_base),
            "adapter_vs_untrained": raised(comparison.adapter_vs_untrained),
        }
    )


@given(gain=scores, drop=scores, over=scores, width=st.floats(0, 0.3), by=st.floats(0, 0.5), policy=policies)
def test_a_better_candidate_never_loses_its_promotion(gain, drop, over, width, by, policy):
    candidate = comparison_of(gain, drop=drop, over_untrained=over, half_width=width)
    for champion in (None, comparison_of(0.1)):
        if decide(candidate, champion, policy).is_promoted:
            assert decide(better(candidate, by), champion, policy).is_promoted


@given(gain=scores, champion_gain=scores, by=st.floats(0, 0.5), policy=policies)
def test_a_stronger_champion_never_makes_promotion_easier(gain, champion_gain, by, policy):
    candidate, champion = comparison_of(gain), comparison_of(champion_gain)
    if decide(candidate, better(champion, by), policy).is_promoted:
        assert decide(candidate, champion, policy).is_promoted
    if decide(candidate, champion, policy).is_promoted:
        assert decide(candidate, None, policy).is_promoted
        assert candidate.overall_adapter >= champion.overall_adapter - 1e-6


@given(gain=scores, drop=st.floats(0, 0.5), policy=policies)
def test_alias_reason_and_checks_agree(gain, drop, policy):
    decision = decide(comparison_of(gain, drop=drop), comparison_of(0.0), policy)
    assert decision.is_promoted == (not failed(decision)) == (decision.alias == "champion")
    assert decision.reason.startswith("Promoted" if decision.is_promoted else "Not promoted")
    assert all(str(check) in decision.reason for check in decision.checks if not check.is_passed)
    assert decision.checks[0].measured == gain
    assert abs(decision.checks[-1].measured - (BASE + gain)) < 1e-9


PIN = "softalign-test/1#" + "0" * 64
PRESENT = PresentChampion(pin=PIN, base_model="shapes", candidate_base_model="shapes")


@pytest.mark.parametrize(
    ("beside", "half_width", "policy", "expected"),
    [
        (0.03, 0.02, POLICY, []),
        (0.0, 0.02, POLICY, []),
        (0.0, 0.021, POLICY, ["not_worse_than_champion"]),
        (-0.03, 0.02, POLICY, ["not_worse_than_champion"]),
        (-0.06, 0.02, POLICY, ["not_worse_than_champion", *(f"champion_tag_drop:{tag}" for tag in TAGS)]),
        (-0.06, 0.02, PromotionPolicy(max_drop_below_champion=0.08, max_tag_drop_below_champion=0.06), []),
    ],
    ids=["win", "tie", "unsure", "loss", "loss everywhere", "margins"],
)
def test_beside_the_champion_a_candidate_must_not_be_worse_beyond_the_margin(beside, half_width, policy, expected):
    candidate = comparison_of(0.1, champion=PIN, beside=beside, half_width=half_width)
    decision = decide(candidate, comparison_of(0.9), policy, present=PRESENT)
    assert failed(decision) == expected
    assert "Beside champion softalign-test/1: " in decision.reason and "in pairs" in decision.reason
    if expected:
        assert "not enough to say it is as good as the champion" in decision.reason


@pytest.mark.parametrize(
    ("drawn", "present", "said"),
    [
        ("", PRESENT, "softalign-test/1 was not drawn"),
        ("softalign-test/7#1", PRESENT, "softalign-test/1 is champion by now, the pairs are with softalign-test/7"),
        ("", PRESENT.model_copy(update={"base_model": "other"}), "softalign-test/1 is of another base model, other"),
    ],
)
def test_why_there_are_no_pairs_with_the_champion_is_said(drawn, present, said):
    for champion in (None, comparison_of(0.05), comparison_of(0.05, suite="geneval")):
        decision = decide(comparison_of(0.1, champion=drawn), champion, POLICY, present=present)
        assert said in decision.reason
        assert "not_worse_than_champion" not in [check.name for check in decision.checks]


def test_every_further_look_widens_the_intervals_and_says_so():
    candidate = comparison_of(0.022, half_width=0.02, over_untrained=0.2)
    first, third = decide(candidate, None, POLICY), decide(candidate, None, POLICY, look=3)
    assert first.is_promoted and "look" not in first.reason
    assert failed(third) == ["gain_significant"] and "It is look 3 at these weights" in third.reason
    (check,) = (one for one in third.checks if one.name == "gain_significant")
    assert check.measured == pytest.approx(0.022 - 0.02 * 2.394 / 1.960, abs=1e-4)  # z of 1 - 0.05 / 6, and of 0.975
    assert first.detectable == pytest.approx(0.02 / 1.960 * (1.960 + 0.842), abs=1e-4)
    assert third.detectable == pytest.approx(0.02 / 1.960 * (2.394 + 0.842), abs=1e-4)
    assert f"{first.detectable * 100:.1f} points or more" in first.reason


def test_intervals_of_images_in_rounds_are_those_of_their_round_and_widen_with_looks_by_boundaries():
    stopping = stopping_after(2, 4, 0.95)
    assert (stopping.boundary, stopping.widening) == pytest.approx((2.963, 1.512), abs=1e-3)
    candidate = comparison_of(0.022, half_width=0.02, over_untrained=0.2).model_copy(update={"stopping": stopping})
    first, third = decide(candidate, None, POLICY), decide(candidate, None, POLICY, look=3)
    assert first.is_promoted and failed(third) == ["gain_significant"]
    (check,) = (one for one in third.checks if one.name == "gain_significant")
    ratio = equal_boundaries(4, 0.025 / 3)[1] / equal_boundaries(4, 0.025)[1]
    assert check.measured == pytest.approx(0.022 - 0.02 * ratio)
    assert first.detectable == pytest.approx(0.02 / 2.963 * (2.963 + 0.842), abs=1e-4)
    assert "2 of 4, as the promotion gate's answer was certain then" in first.reason
    whole = candidate.model_copy(update={"stopping": stopping_after(4, 4, 0.95)})
    assert "4 of 4, as the promotion gate's answer was open until the last" in decide(whole, None, POLICY).reason


def test_too_few_images_decide_nothing():
    assert failed(decide(comparison_of(0.1), None, PromotionPolicy(min_images=25))) == ["min_images"]
    assert decide(comparison_of(0.1), None, PromotionPolicy(min_images=24)).is_promoted


@pytest.mark.parametrize(
    ("guard", "is_kept"),
    [
        (Guard(metric="overall_adapter", at_least=0.6), True),
        (Guard(metric="overall_adapter", at_least=0.61), False),
        (Guard(metric="adapter_vs_base/counting/ci_low", at_least=0.0), True),
        (Guard(metric="denoiser_calls_per_image", at_most=15), True),
        (Guard(metric="denoiser_calls_per_image", at_most=14), False),
        (Guard(metric="adapter_vs_base/overall", at_most=0), False),
    ],
)
def test_any_number_of_the_comparison_can_be_guarded(guard, is_kept):
    decision = decide(comparison_of(0.1), None, PromotionPolicy(guards=(guard,)))
    assert failed(decision) == ([] if is_kept else [f"guard:{guard.metric}"])


def test_a_guard_of_what_is_not_there_is_refused():
    policy = PromotionPolicy(guards=(Guard(metric="adapter_vs_champion/overall", at_least=0),))
    with pytest.raises(ConfigError, match=r"(?s)does not have.*adapter_vs_champion/overall"):
        decide(comparison_of(0.1), None, policy)
    for wrong in ({"metric": "nonsense", "at_least": 1}, {"metric": "overall_base"}):
        with pytest.raises(ValidationError):
            Guard(**wrong)


def test_the_checks_are_a_table():
    decision = decide(comparison_of(0.1), None, POLICY)
    table = decision.to_table()
    assert [row[0] for row in table["data"]] == [check.name for check in decision.checks]
    assert {len(row) for row in table["data"]} == {len(table["columns"])}
