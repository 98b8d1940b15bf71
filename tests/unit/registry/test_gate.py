import pytest
from hypothesis import given
from hypothesis import strategies as st

from softalign.config import PromotionPolicy
from softalign.errors import DataError
from softalign.registry.gate import decide
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
            "the gain over the base may be chance: its interval begins at -1.0 points, not above zero.",
        ),
        (comparison_of(0.1, drop=0.06), POLICY, f"{TAGS[-1]} fell by 6.0 points, more than the 5.0 allowed."),
        (comparison_of(0.1, over_untrained=0.0), POLICY, "it does not beat untrained tokens (+0.0 points)."),
        (
            comparison_of(0.1, over_untrained=0.01, half_width=0.02),
            POLICY,
            "the gain over untrained tokens may be chance: its interval begins at -1.0 points, not above zero.",
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
