"""Losses and gradients against a plain double loop, written from the equations alone, in float64."""

import math
from dataclasses import dataclass

import pytest
import torch

from softalign.config import AGSMConfig, ScoreMatchingConfig, SoftREPAConfig
from softalign.config.objective import OBJECTIVES
from softalign.method.objective import (
    align,
    bradley_terry_mixing,
    calibrated_temperature,
    candidate_mask,
    intrinsic_rewards,
    plackett_luce_mixing,
    plackett_luce_weights,
    reward_spread,
    squared_error,
)
from softalign.method.soft_tokens import SoftTokens
from softalign.training.pair_grid import Division, backward_grid, live_pairs, num_banks
from tests.unit.plain_loop import plain_loss

B, C, H, W, S, D = 4, 2, 3, 2, 2, 5
TOLERANCE = 1e-10


class ToyDenoiser:
    """A smooth, nonlinear function of image, caption and tokens, with the interface of the grid."""

    def __init__(self, seed=0, num_images=B, num_prompts=B):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        self.images, self.captions = draw(num_images, C, H, W), draw(num_prompts, D)
        self.mixer = draw(D, C * H * W)
        self.timesteps = torch.randint(1000, (num_images,), generator=generator)
        self.target = draw(num_images, C, H, W)
        self.rows = 0
        self.calls_with_grad = 0

    def one(self, image, caption, bank, tokens):
        text = torch.tanh(tokens(self.timesteps[[image]], torch.tensor([bank]))[0].sum(0) + self.captions[caption])
        return torch.tanh(self.images[image] + (text @ self.mixer).view(C, H, W))

    def __call__(self, pairs, tokens):
        self.rows += len(pairs)
        self.calls_with_grad += int(torch.is_grad_enabled())
        tokens_NSD = tokens(self.timesteps[pairs.images_N], pairs.banks_N)
        text_ND = torch.tanh(tokens_NSD.sum(1) + self.captions[pairs.prompts_N])
        return torch.tanh(self.images[pairs.images_N] + (text_ND @ self.mixer).view(-1, C, H, W))


def make_tokens(config, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.3  # noqa: E731
    return SoftTokens(draw(num_banks(config), S, D), draw(100, D))


CONFIGS = {
    "agsm": AGSMConfig(),
    "agsm as in the paper": AGSMConfig(reward_reduction="sum", temperature=1.0),
    "agsm calibrated": AGSMConfig(temperature="calibrated"),
    "agsm calibrated bradley-terry": AGSMConfig(temperature="calibrated", weights="bradley_terry"),
    "agsm sum": AGSMConfig(reward_reduction="sum", temperature=1.0),
    "agsm gammas": AGSMConfig(gamma_positive=0.7, gamma_negative=0.1),
    "agsm no negatives": AGSMConfig(gamma_negative=0.0),
    "agsm shared": AGSMConfig(banks="shared"),
    "agsm bradley-terry": AGSMConfig(weights="bradley_terry"),
    "softrepa": SoftREPAConfig(),
    "softrepa without denoising": SoftREPAConfig(denoising_weight=0.0, temperature=1.0),
    "score_matching": ScoreMatchingConfig(),
}


@dataclass(frozen=True)
class Candidates:
    """Which prompts belong to which image; prompts from B on are hard negatives."""

    rows: tuple[tuple[int, ...], ...]
    num_prompts: int = B

    @property
    def mask(self):
        return candidate_mask(self.rows, self.num_prompts)


ALL = (0, 1, 2, 3)
CANDIDATES = {
    "all": Candidates((ALL,) * 4),
    "one pair equal": Candidates(((0, 1, 3), ALL, (1, 2, 3), ALL)),
    "one row alone": Candidates(((0, 3), (1, 3), (2, 3), ALL)),
    "no negatives": Candidates(((0,), (1,), (2,), (3,))),
    "one negative each": Candidates(((0, 2), (0, 1), (2, 3), (1, 3))),
    "two negatives each": Candidates(((0, 2, 3), (0, 1, 2), (1, 2, 3), (0, 1, 3))),
    "hard ones besides": Candidates(((*ALL, 4, 5), (*ALL, 6), (*ALL, 7, 8), (*ALL, 9)), 10),
    "hard ones alone": Candidates(((0, 4), (1, 5), (2, 6), (3, 7)), 8),
    "hard ones for some": Candidates(((0, 1, 4), (1, 2), (2, 5, 6), (3,)), 7),
}


def run(config, candidates, micro_batch_size=None):
    denoiser = ToyDenoiser(num_images=len(candidates.rows), num_prompts=candidates.num_prompts)
    live, ema = make_tokens(config, 1), make_tokens(config, 2)
    result = backward_grid(
        denoiser, live, ema, denoiser.target, candidates.mask, config, Division.into_chunks(micro_batch_size)
    )
    return denoiser, live, ema, result


@pytest.mark.parametrize("candidates", CANDIDATES.values(), ids=CANDIDATES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_loss_and_gradient_equal_a_plain_double_loop(config, candidates):
    denoiser, live, ema, result = run(config, candidates)
    reference = make_tokens(config, 1)
    loss = plain_loss(denoiser, reference, ema, candidates.rows, config)
    loss.backward()
    assert abs(float(result.loss.total) - float(loss.detach())) < TOLERANCE
    for found, expected in zip(live.parameters(), reference.parameters(), strict=True):
        assert (found.grad - expected.grad).abs().max() < TOLERANCE
        assert expected.grad.abs().max() > 0 or config is CONFIGS["softrepa without denoising"]
    assert all(parameter.grad is None for parameter in ema.parameters())


@pytest.mark.parametrize("micro_batch_size", [1, 3, 5, 7, 15, 16, 100])
@pytest.mark.parametrize("name", ["one pair equal", "one negative each", "hard ones besides", "hard ones for some"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradient_does_not_depend_on_the_micro_batch_size(config, name, micro_batch_size):
    _, whole, _, expected = run(config, CANDIDATES[name])
    _, chunked, _, found = run(config, CANDIDATES[name], micro_batch_size)
    assert abs(float(found.loss.total - expected.loss.total)) < 1e-12
    assert torch.allclose(found.errors_N, expected.errors_N, atol=1e-12, rtol=0)
    for left, right in zip(whole.parameters(), chunked.parameters(), strict=True):
        assert (left.grad - right.grad).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("name", "rows", "rows_in_chunks"),
    [
        ("agsm", 16 + 16, 16 + 16),
        ("agsm no negatives", 16 + 4, 16 + 4),
        ("softrepa", 16, 16 + 16),
        ("score_matching", 4, 4),
    ],
)
def test_no_denoiser_row_is_wasted(name, rows, rows_in_chunks):
    assert run(CONFIGS[name], CANDIDATES["all"])[0].rows == rows
    assert run(CONFIGS[name], CANDIDATES["all"], micro_batch_size=3)[0].rows == rows_in_chunks


def test_masked_pairs_are_neither_predicted_nor_trained():
    denoiser, *_ = run(CONFIGS["agsm"], CANDIDATES["no negatives"])
    assert denoiser.rows == 4 + 4
    pairs = live_pairs(CANDIDATES["one pair equal"].mask, CONFIGS["agsm"])
    assert (0, 2) not in set(zip(pairs.images_N.tolist(), pairs.prompts_N.tolist(), strict=True))
    assert len(pairs) == 14


def test_hard_negatives_are_pairs_of_their_own_image_alone():
    candidates = CANDIDATES["hard ones besides"]
    pairs = live_pairs(candidates.mask, CONFIGS["agsm"])
    assert len(pairs) == 16 + 6
    hard = pairs.prompts_N >= B
    assert pairs.images_N[hard].tolist() == [0, 0, 1, 2, 2, 3]
    assert (pairs.banks_N[hard] == 1).all() and not pairs.is_match_N[hard].any()
    assert run(CONFIGS["agsm"], candidates)[0].rows == 2 * 22
    assert run(CONFIGS["agsm no negatives"], candidates)[0].rows == 22 + 4


def test_a_prompt_that_is_nobodys_candidate_changes_nothing():
    rows = CANDIDATES["one negative each"].rows
    for config in CONFIGS.values():
        results = []
        for num_prompts in (4, 6):
            denoiser, live, ema = ToyDenoiser(num_prompts=6), make_tokens(config, 1), make_tokens(config, 2)
            mask = candidate_mask(rows, num_prompts)
            loss = backward_grid(denoiser, live, ema, denoiser.target, mask, config).loss.total
            results.append([loss, *(parameter.grad for parameter in live.parameters())])
        for one, other in zip(*results, strict=True):
            assert torch.allclose(one, other, atol=1e-14, rtol=0)


def test_negatives_use_the_other_bank_unless_shared():
    mask = CANDIDATES["all"].mask
    dual, shared = live_pairs(mask, CONFIGS["agsm"]), live_pairs(mask, CONFIGS["agsm shared"])
    assert torch.equal(dual.banks_N, (~dual.is_match_N).long())
    assert shared.banks_N.sum() == 0


def test_equal_rewards_give_log_p_for_softrepa_and_chance_for_agsm():
    mask = CANDIDATES["all"].mask
    weights = plackett_luce_weights(torch.full((4, 4), -0.3, dtype=torch.float64), mask, 0.1)
    assert torch.allclose(weights, torch.full((4, 4), 0.25, dtype=torch.float64))
    from softalign.method.objective import softrepa_loss

    equal = torch.full((4, 4), 0.2, dtype=torch.float64)
    loss = softrepa_loss(equal, mask, CONFIGS["softrepa without denoising"])
    assert float(loss.total) == pytest.approx(math.log(4), abs=1e-12)


def test_weights_of_masked_candidates_are_zero_and_rows_sum_to_one():
    mask = CANDIDATES["one row alone"].mask
    weights = plackett_luce_weights(torch.randn(4, 4, dtype=torch.float64), mask, 0.1)
    assert torch.allclose(weights.sum(1), torch.ones(4, dtype=torch.float64))
    assert (weights[~mask] == 0).all()
    only_itself = candidate_mask(((0,), (1,), (2,)), 3)
    assert torch.equal(plackett_luce_weights(torch.randn(3, 3), only_itself, 0.1), torch.eye(3))


def test_plackett_luce_and_bradley_terry_agree_on_two_candidates():
    rewards = torch.randn(2, 2, dtype=torch.float64)
    mask = torch.ones(2, 2, dtype=torch.bool)
    first = plackett_luce_mixing(plackett_luce_weights(rewards, mask, 0.5))
    assert torch.allclose(first, bradley_terry_mixing(rewards, mask, 0.5), atol=1e-12)


def test_directions_vanish_for_equal_predictions_and_are_bounded():
    rewards = 100 * torch.randn(5, 5, dtype=torch.float64)
    mask = candidate_mask([range(5)] * 5, 5)
    for mixing in (
        plackett_luce_mixing(plackett_luce_weights(rewards, mask, 0.1)),
        bradley_terry_mixing(rewards, mask, 0.1),
    ):
        assert mixing.sum(dim=2).abs().max() < 1e-12
        assert mixing.abs().sum(dim=2).max() <= 2 + 1e-12


def test_reward_reductions_differ_by_the_number_of_values():
    ema, target = torch.randn(2, 2, C, H, W), torch.randn(2, C, H, W)
    mean, total = intrinsic_rewards(ema, target, "mean"), intrinsic_rewards(ema, target, "sum")
    assert torch.allclose(total, mean * C * H * W)


def test_errors_of_half_precision_predictions_are_taken_in_float32():
    prediction = torch.full((1, C, H, W), 3.0, dtype=torch.bfloat16)
    error = squared_error(prediction, torch.full((1, C, H, W), 1e-3))
    assert error.dtype == torch.float32
    assert float(error[0]) == pytest.approx((3 - 1e-3) ** 2, rel=1e-6)


def test_every_objective_field_changes_the_loss_or_gradient():
    def fingerprint(config):
        _, live, _, result = run(config, CANDIDATES["all"])
        return float(result.loss.total), *(float(parameter.grad.double().norm()) for parameter in live.parameters())

    mutations = {
        "agsm": {
            "weights": "bradley_terry",
            "banks": "shared",
            "gamma_positive": 0.5,
            "gamma_negative": 0.5,
            "temperature": 0.3,
            "reward_reduction": "sum",
        },
        "softrepa": {"temperature": 0.3, "logit_scale": 2.0, "denoising_weight": 1.0},
    }
    for name, changes in mutations.items():
        base = OBJECTIVES[name]()
        own_fields = {field for field, value in base.model_dump(exclude={"name"}).items() if value is not None}
        assert set(changes) == own_fields
        for field, value in changes.items():
            assert fingerprint(OBJECTIVES[name](**{field: value})) != fingerprint(base), field
    assert fingerprint(AGSMConfig(temperature="calibrated")) != fingerprint(AGSMConfig())


def aligned(config, ema_scale=1.0, candidates=None):
    generator = torch.Generator().manual_seed(7)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    target = draw(4, C, H, W)
    ema = target[:, None] + ema_scale * draw(4, 4, C, H, W)
    return align(ema, target, (candidates or CANDIDATES["all"]).mask, config)


def test_the_papers_exponent_is_a_sum_and_the_codes_a_mean_over_a_tenth():
    paper, code = aligned(AGSMConfig(reward_reduction="sum", temperature=1.0)), aligned(AGSMConfig())
    assert torch.allclose(paper.weights_BP, (code.rewards_BP * C * H * W).softmax(dim=1), atol=1e-12)
    assert torch.allclose(code.weights_BP, (code.rewards_BP / 0.1).softmax(dim=1), atol=1e-12)
    assert float(paper.temperature) == 1.0
    assert float(code.temperature) == pytest.approx(0.1)


def test_a_calibrated_temperature_is_in_units_of_the_rewards_spread():
    """Where the code's 0.1 leaves all weights at chance, the calibrated temperature ranks as it does on any scale."""
    calibrated, fixed = AGSMConfig(temperature="calibrated"), AGSMConfig()
    for candidates in (CANDIDATES["all"], CANDIDATES["one pair equal"]):
        mask = candidates.mask
        large, small = aligned(calibrated, 1.0, candidates), aligned(calibrated, 1e-3, candidates)
        assert float(small.temperature) == pytest.approx(float(reward_spread(small.rewards_BP, mask)), rel=1e-12)
        assert torch.allclose(large.weights_BP, small.weights_BP, atol=1e-9)
        assert (small.weights_BP.max(dim=1).values - small.weights_BP[mask].min()).max() > 0.1
        flat = aligned(fixed, 1e-3, candidates).weights_BP
        assert (flat - mask / mask.sum(dim=1, keepdim=True)).abs().max() < 1e-4


def test_a_calibrated_temperature_leaves_an_indifferent_image_indifferent():
    rewards = torch.tensor([[0.0, -1e-6], [0.0, -1.0]], dtype=torch.float64)
    mask = torch.ones(2, 2, dtype=torch.bool)
    weights = plackett_luce_weights(rewards, mask, calibrated_temperature(rewards, mask))
    assert weights[0, 0] == pytest.approx(0.5, abs=1e-5)
    assert weights[1, 0] > 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reward", [0.0, -0.3, -1e-30, -1e10])
def test_equal_rewards_are_chance_at_a_calibrated_temperature(reward, dtype):
    mask = CANDIDATES["one pair equal"].mask
    rewards = torch.full((4, 4), reward, dtype=dtype).masked_fill(~mask, -77.0)
    temperature = calibrated_temperature(rewards, mask)
    assert temperature > 0
    assert torch.isfinite(temperature)
    weights = plackett_luce_weights(rewards, mask, temperature)
    assert torch.allclose(weights, mask / mask.sum(dim=1, keepdim=True).to(dtype), atol=1e-6)


def test_rounding_is_not_blown_up_into_a_preference():
    """Rewards that differ in their last bit are as good as equal."""
    rewards = torch.full((2, 4), -0.3, dtype=torch.float32)
    rewards[0, 0] = torch.nextafter(rewards[0, 0], torch.tensor(0.0))
    mask = torch.ones(2, 4, dtype=torch.bool)
    weights = plackett_luce_weights(rewards, mask, calibrated_temperature(rewards, mask))
    assert (weights - 0.25).abs().max() < 0.1


def test_no_image_has_a_negative_and_nothing_is_calibrated():
    mask = torch.eye(3, dtype=torch.bool)
    rewards = torch.randn(3, 3, dtype=torch.float64)
    assert reward_spread(rewards, mask) == 0.0
    weights = plackett_luce_weights(rewards, mask, calibrated_temperature(rewards, mask))
    assert torch.equal(weights, torch.eye(3, dtype=torch.float64))


def test_rewards_that_are_not_finite_stay_visible():
    rewards = torch.zeros(2, 2, dtype=torch.float64)
    rewards[0, 0] = torch.nan
    mask = torch.ones(2, 2, dtype=torch.bool)
    weights = plackett_luce_weights(rewards, mask, calibrated_temperature(rewards, mask))
    assert weights.isnan().any()
