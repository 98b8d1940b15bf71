"""On every family: a training step's loss and gradient against an independent plain double loop, in float64.

The step goes its real way: the row cache is open, the pairs come in chunks of two, rows of candidates are ragged and
hold hard negatives (P > B). The loop has its own equations of noise, its own hooks, and one pair at a time.
"""

import pytest
import torch

from softalign.config import AGSMConfig, ScoreMatchingConfig, SoftREPAConfig, TrainConfig
from softalign.method.forward_process import draw_noise
from softalign.method.objective import candidate_mask
from softalign.method.soft_tokens import update_ema
from softalign.training.checkpoints import TrainingState
from softalign.training.pair_grid import Division, backward_grid, num_banks
from softalign.training.step import StepInputs, pair_predictor
from tests.tiny_families import FAMILIES, drawn
from tests.unit.plain_denoiser import PlainDenoiser
from tests.unit.plain_loop import plain_loss

B, P, SIZE, CHUNK = 3, 5, 8, 2
CANDIDATES = ((0, 1, 3), (1, 0, 2, 4), (2,))
"""Image 0 with a hard negative, image 1 with everyone and one, image 2 alone."""
TOLERANCE = 1e-10
SMALLEST_GRADIENT = 1e-6
"""A largest entry below this would let a wrong gradient pass; the families' are 1e-5 to 5e-3."""
OBJECTIVES = {
    "agsm": AGSMConfig(),
    "paper: sum": AGSMConfig(reward_reduction="sum", temperature=1.0),
    "calibrated": AGSMConfig(temperature="calibrated"),
    "bradley-terry": AGSMConfig(weights="bradley_terry", temperature=0.01),
    "shared bank": AGSMConfig(banks="shared"),
    "g- 0": AGSMConfig(gamma_negative=0.0),
    "g- 0.1": AGSMConfig(gamma_negative=0.1),
    "softrepa": SoftREPAConfig(),
    # at 0.07 these errors leave a contrastive gradient of 5e-14, unseen beside the denoising part
    "softrepa, contrastive": SoftREPAConfig(temperature=1.0, denoising_weight=0.0),
    "score_matching": ScoreMatchingConfig(),
}


class Step:
    """One step of a family, through ``step``'s own predictor; ``plain`` is the loop's denoiser."""

    def __init__(self, name, config):
        family = FAMILIES[name]
        self.config, banks = config, num_banks(config)
        self.live, self.reference, self.ema = (family.tokens(banks, seed) for seed in (1, 1, 4))
        self.denoiser = family.denoiser(self.live)
        latents, text = drawn(B, 4, SIZE, SIZE, seed=7), family.text(P, seed=8)
        draw = draw_noise((B, 4, SIZE, SIZE), sharing="per_image", seed=0, samples_seen=0)
        self.noisy = self.denoiser.process.diffuse(latents, draw)
        self.plain = PlainDenoiser(family, self.denoiser.module, latents, draw.times_B, draw.noise_BCHW.double(), text)
        state = TrainingState(self.live, self.ema, torch.optim.AdamW(self.live.parameters(), lr=1e-2))
        division = Division.into_chunks(CHUNK)
        self.step_inputs = StepInputs(
            TrainConfig(objective=config), self.denoiser, state, torch.device("cpu"), division
        )
        self.predict = pair_predictor(self.step_inputs, self.noisy, text)

    def backward(self):
        mask, division = candidate_mask(CANDIDATES, P), self.step_inputs.division
        with self.denoiser.row_cache.one_batch():
            return backward_grid(self.predict, self.live, self.ema, self.noisy.target_BCHW, mask, self.config, division)


@pytest.mark.parametrize("config", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradient_equal_a_plain_double_loop(name, config):
    step = Step(name, config)
    result = step.backward()
    step.denoiser.close()
    loss = plain_loss(step.plain, step.reference, step.ema, CANDIDATES, config)
    loss.backward()
    assert_equal(result.loss.total, loss.detach())
    for found, expected in zip(step.live.parameters(), step.reference.parameters(), strict=True):
        assert expected.grad.abs().max() > SMALLEST_GRADIENT
        assert_equal(found.grad, expected.grad)


def assert_equal(found, expected):
    difference = float((found - expected).abs().max())
    assert difference < TOLERANCE
    assert difference < TOLERANCE * float(expected.abs().max())


@pytest.mark.parametrize("name", ["sdxl", "sd3", "sd35"])
def test_training_steps_leave_the_backbones_bytes_alone(name):
    step = Step(name, OBJECTIVES["agsm"])
    module = step.denoiser.module
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    start = step.live.banks.detach().clone()
    for _ in range(5):
        step.backward()
        step.step_inputs.state.optimizer.step()
        update_ema(step.ema, step.live, 0.9)
    assert not torch.equal(step.live.banks, start)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
