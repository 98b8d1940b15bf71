"""The parts of a gradient are the gradient that training follows, however many pairs go through at once."""

import pytest
import torch

from softalign.config import AGSMConfig
from softalign.config.objective import ScoreMatchingConfig, SoftREPAConfig
from softalign.method.forward_process import draw_noise
from softalign.method.objective import candidate_mask
from softalign.training.gradient_parts import part_gradients
from softalign.training.pair_grid import backward_grid, num_banks
from tests.tiny_families import FAMILIES, drawn

OBJECTIVES = {
    "agsm": (AGSMConfig(), {"positive", "negative"}),
    "agsm without negatives": (AGSMConfig(gamma_negative=0.0), {"positive"}),
    "softrepa": (SoftREPAConfig(), {"positive", "negative"}),
    "score_matching": (ScoreMatchingConfig(), {"positive"}),
}


@pytest.mark.parametrize(("objective", "size"), [(name, size) for name in OBJECTIVES for size in (2, 100)])
@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_parts_add_up_to_the_gradient(name, objective, size):
    family, (config, parts) = FAMILIES[name], OBJECTIVES[objective]
    live, ema = family.tokens(num_banks(config), 3), family.tokens(num_banks(config), 5)
    denoiser, text = family.denoiser(live), family.text(3, seed=1)
    noisy = denoiser.process.diffuse(
        drawn(2, 4, 8, 8), draw_noise((2, 4, 8, 8), sharing="shared", seed=0, samples_seen=0)
    )

    def predict(pairs, tokens):
        rows = noisy.noisy_latents_BCHW[pairs.images_N], noisy.timesteps_B[pairs.images_N], text.rows(pairs.prompts_N)
        return denoiser.predict(*rows, tokens, pairs.banks_N)

    mask = candidate_mask([[0, 1, 2], [1, 0]], 3)
    found = part_gradients(predict, live, ema, noisy.target_BCHW, mask, config, size)
    assert live.banks.grad is None
    assert {one.loss_part for one in found} == parts
    backward_grid(predict, live, ema, noisy.target_BCHW, mask, config)
    whole = {"psi+": live.banks.grad[0], "timestep table": live.timestep_offsets.grad}
    whole |= {"psi-": live.banks.grad[1]} if len(live.banks) > 1 else {}
    for parameter, gradient in whole.items():
        own = [one.values for one in found if one.parameter == parameter]
        torch.testing.assert_close(torch.stack(own).sum(dim=0), gradient.flatten())
