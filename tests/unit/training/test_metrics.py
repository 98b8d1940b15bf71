import json
import math

import pytest
import torch

from softalign.config.objective import OBJECTIVES
from softalign.method.objective import LossTerms, align, candidate_mask, plackett_luce_weights
from softalign.method.soft_tokens import SoftTokens
from softalign.training.metrics import TrainRow, keep_rows_up_to, to_line, train_row, weight_statistics
from softalign.training.pair_grid import GridResult, live_pairs


def statistics(rewards, candidates, tau=1.0):
    mask = candidate_mask(candidates, len(rewards[0]))
    rewards = torch.tensor(rewards, dtype=torch.float64)
    return weight_statistics(plackett_luce_weights(rewards, mask, tau), rewards, mask)


def test_weight_statistics_of_a_known_grid():
    found = statistics([[math.log(3), 0.0], [0.0, math.log(3)]], [(0, 1)] * 2)
    assert found.win_rate == 1.0
    assert found.match_weight == pytest.approx(0.75)
    assert found.chance == 0.5
    assert found.margin == pytest.approx(0.5)
    assert found.reward_spread == pytest.approx(math.log(3) / 2)


def test_uniform_weights_are_chance_and_no_win():
    found = statistics([[0.0] * 4] * 4, [range(4)] * 4)
    assert (found.win_rate, found.match_weight, found.chance, found.margin) == (0.0, 0.25, 0.25, 0.0)


def test_masked_candidates_and_images_without_negatives_do_not_count():
    rewards = [[0.0, 9.0, 1.0], [9.0, 0.0, 1.0], [0.0, 0.0, 5.0]]
    found = statistics(rewards, [(0, 2), (1, 2), range(3)])
    assert found.chance == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)
    assert found.win_rate == pytest.approx(1 / 3)
    assert statistics([[0.0, 9.0], [9.0, 0.0]], [(0,), (1,)]) is None


def test_chance_counts_each_images_own_candidates_hard_ones_included():
    rewards = [[0.0, 5.0, 1.0, 9.0], [0.0, 2.0, 9.0, 1.0]]
    found = statistics(rewards, [(0, 2), (0, 1, 3)])
    assert found.chance == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found.win_rate == 0.5
    assert found.reward_spread == pytest.approx((0.5 + math.sqrt(2 / 3)) / 2)


def make_row(name="agsm", loss=1.0, **objective):
    config = OBJECTIVES[name](**objective)
    mask = candidate_mask([range(3)] * 3, 3)
    torch.manual_seed(0)
    ema, target = torch.randn(3, 3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    alignment = align(ema, target, mask, config) if name == "agsm" else None
    terms = LossTerms(torch.tensor(loss), torch.tensor(loss), torch.tensor(0.0))
    result = GridResult(terms, torch.ones(9), live_pairs(mask, config), alignment)
    banks = 2 if name == "agsm" else 1
    return train_row(
        result,
        mask,
        torch.tensor([10, 20, 30]),
        SoftTokens(torch.full((banks, 2, 2), 3.0), torch.zeros(4, 2)),
        step=1,
        samples_seen=3,
        grad_norm=loss,
        learning_rate=0.1,
        is_skipped=False,
    )


def test_a_row_says_what_the_step_was():
    row = make_row()
    assert row.timestep == 20.0
    assert row.norm_positive_bank == row.norm_negative_bank == 6.0
    assert row.chance == pytest.approx(1 / 3)
    assert row.direction_norm > 0
    assert row.temperature == pytest.approx(0.1)
    assert row.num_without_negative == 0
    edits = {"num_count_edits": 2, "num_color_edits": 0, "num_position_edits": 0, "num_object_edits": 1}
    assert set(json.loads(to_line(row))) == set(TrainRow.model_fields) - set(edits), "none was asked for"
    assert json.loads(to_line(row.model_copy(update=edits))).items() >= edits.items()


def test_a_calibrated_temperature_is_the_spread():
    row = make_row(temperature="calibrated")
    assert row.temperature == pytest.approx(row.reward_spread)


def test_objectives_without_rewards_have_no_weight_fields():
    row = make_row("score_matching")
    assert row.win_rate is row.match_weight is row.temperature is row.direction_norm is row.norm_negative_bank is None


def test_numbers_that_are_not_finite_become_null_and_the_line_stays_json():
    row = make_row(loss=float("nan"))
    assert row.loss is row.grad_norm is None
    assert json.loads(to_line(row))["loss"] is None


def test_rows_after_a_step_and_a_torn_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) + "\n" for step in (0, 1, 2, 2, 3)]
    path.write_text("".join(lines) + '{"step": 4, "lo')
    keep_rows_up_to(path, 3)
    assert path.read_text() == "".join(lines)
    keep_rows_up_to(path, 2)
    assert path.read_text() == "".join(lines[:4])
    keep_rows_up_to(path, -1)
    assert path.read_text() == ""
    keep_rows_up_to(tmp_path / "absent.jsonl", 3)


def test_a_validation_that_is_to_come_again_is_dropped_with_what_follows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = [
        json.dumps({"step": step, "split": split}) + "\n" for step, split in ((1, "train"), (1, "val"), (2, "train"))
    ]
    path.write_text("".join(kept) + json.dumps({"step": 2, "split": "val"}) + "\n")
    keep_rows_up_to(path, 2, has_validation=False)
    assert path.read_text() == "".join(kept)
