"""The best validation, early stopping and the alarm, as a function of the rows."""

import pytest

from softalign.training.metrics import ValidationRow
from softalign.training.validation_history import ValidationHistory, chance_alarm, is_at_chance


def row(step, accuracy=0.5, margin=0.0, weight=None, loss=1.0):
    unset = {name: None for name in ValidationRow.model_fields if "over_chance" in name}
    return ValidationRow(
        step=step,
        samples_seen=4 * step,
        val_accuracy=accuracy,
        val_chance=0.25,
        val_loss=loss,
        val_margin=margin,
        val_match_weight=weight,
        **unset,
        norm_positive_bank=1.0,
        norm_negative_bank=None,
        norm_timestep_offsets=1.0,
        num_images=4,
    )


def history(*rows):
    found = ValidationHistory()
    for each in rows:
        found = found.after(each)
    return found


def test_the_best_has_the_highest_accuracy_then_the_largest_margin_then_comes_first():
    assert history(row(0, 0.5), row(10, 0.6), row(20, 0.55)).best_step == 10
    assert history(row(0, 0.5, 0.1), row(10, 0.5, 0.2), row(20, 0.5, 0.15)).best_step == 10
    assert history(row(0, 0.5, 0.1), row(10, 0.5, 0.1)).best_step == 0


def test_a_validation_that_is_not_finite_is_never_the_best():
    found = history(row(0, 0.9, loss=None), row(10, 0.9, margin=None), row(20, 0.1))
    assert found.best_step == 20
    assert history(row(0, 0.9, loss=None)).best_step is None


def test_patience_counts_validations_without_a_better_one():
    rows = [row(0, 0.5), row(10, 0.6), row(20, 0.6), row(30, 0.4)]
    assert history(*rows).num_since_best == 2
    assert history(*rows).is_over(2)
    assert not history(*rows).is_over(3)
    assert not history(*rows).is_over(None)
    assert not history(*rows, row(40, 0.7)).is_over(1)


def test_the_alarm_needs_several_validations_in_a_row_at_chance():
    at, above = row(0, weight=0.252), row(0, weight=0.4)
    assert not history(at, at).is_alarming
    assert history(at, at, at).is_alarming
    assert not history(at, at, above, at).is_alarming
    assert not history(at, at, at, above).is_alarming


@pytest.mark.parametrize(
    ("weight", "expected"), [(0.25, True), (0.262, True), (0.238, True), (0.27, False), (0.2, False), (None, False)]
)
def test_what_counts_as_chance(weight, expected):
    assert is_at_chance(weight, 0.25) is expected


def test_the_alarm_gives_no_advice_that_was_followed_already():
    said = chance_alarm(0.251, 0.25, "3 validations", 0.1)
    assert "at chance (0.251 against 0.25) for 3 validations" in said
    assert "set train.objective.temperature=calibrated" in said
    assert "set train" not in chance_alarm(0.251, 0.25, "3 validations", "calibrated")
