"""On every family's denoiser: losses and gradients of the grid against the plain double loop, in float64."""

import pytest
import torch
from diffusers import DDIMScheduler

from softalign.backbones.mmdit import MMDiTDenoiser
from softalign.backbones.unet import UNetDenoiser
from softalign.config import ObjectiveConfig
from softalign.forward_process import DDPMProcess, FlowProcess, draw_noise
from softalign.objective import candidate_mask
from softalign.pair_grid import Division, backward_grid, num_banks
from softalign.soft_tokens import SoftTokens, update_ema
from softalign.text_states import TextStates
from tests import tiny_sd3, tiny_sdxl, tiny_unet
from tests.unit.plain_loop import plain_loss

B, L, S = 3, 5, 2
TOLERANCE = 1e-10
CANDIDATES = {"all": ((0, 1, 2), (0, 1, 2), (0, 1, 2)), "one pair equal": ((0, 2), (1, 2), (0, 1, 2))}
OBJECTIVES = {
    "agsm": ObjectiveConfig(),
    "softrepa": ObjectiveConfig(name="softrepa"),
    "score_matching": ObjectiveConfig(name="score_matching"),
}


def ddpm(prediction_type):
    return DDPMProcess(DDIMScheduler().alphas_cumprod.double(), prediction_type)


class Family:
    """A tiny denoiser of a family with random images and texts; ``one`` is the plain loop's scalar call."""

    def __init__(self, name, config):
        generator = torch.Generator().manual_seed(4)
        self.draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
        width, pooled, layers = {
            "sd15": (tiny_unet.WIDTH, None, ()),
            "sd21": (tiny_unet.WIDTH, None, ()),
            "sdxl": (tiny_sdxl.TEXT_WIDTH, tiny_sdxl.POOLED_WIDTH, ()),
            "sd3": (tiny_sd3.JOINT_WIDTH, tiny_sd3.POOLED_WIDTH, (2,)),
            "sd35": (tiny_sd3.JOINT_WIDTH, tiny_sd3.POOLED_WIDTH, (2,)),
        }[name]
        self.text = TextStates(self.draw(B, L, width), None if pooled is None else self.draw(B, pooled))
        self.layers, self.token_width = layers, tiny_sd3.STREAM_WIDTH if layers else width
        self.live, self.reference, self.ema = (self.tokens(config, seed) for seed in (1, 1, 2))
        if layers:
            changes = tiny_sd3.SD35 if name == "sd35" else {}
            transformer = tiny_sd3.make_transformer(dtype=torch.float64, **changes)
            self.denoiser = MMDiTDenoiser(transformer, self.live, FlowProcess(3.0))
        else:
            unet = (tiny_sdxl.make_xl_unet if name == "sdxl" else tiny_unet.make_unet)(dtype=torch.float64)
            process = ddpm("v_prediction" if name == "sd21" else "epsilon")
            self.denoiser = UNetDenoiser(unet, ("down", "mid"), self.live, process, 32)
        noise = draw_noise((B, 4, 4, 4), sharing="per_image", seed=0, samples_seen=0)
        self.noisy = self.denoiser.process.diffuse(self.draw(B, 4, 4, 4), noise)
        self.target = self.noisy.target_BCHW

    def tokens(self, config, seed):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        table_width = self.token_width * (self.layers[0] if self.layers else 1)
        return SoftTokens(draw(num_banks(config), *self.layers, S, self.token_width), draw(100, table_width))

    def __call__(self, pairs, tokens):
        return self.denoiser.predict(
            self.noisy.noisy_latents_BCHW[pairs.images_N],
            self.noisy.timesteps_B[pairs.images_N],
            self.text.rows(pairs.prompts_N),
            tokens,
            pairs.banks_N,
        )

    def one(self, image, caption, bank, tokens):
        return self.denoiser.predict(
            self.noisy.noisy_latents_BCHW[[image]],
            self.noisy.timesteps_B[[image]],
            self.text.rows([caption]),
            tokens,
            torch.tensor([bank]),
        )[0]


@pytest.mark.parametrize("candidates", CANDIDATES.values(), ids=CANDIDATES)
@pytest.mark.parametrize("config", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "sd3", "sd35"])
def test_loss_and_gradient_equal_a_plain_double_loop(name, config, candidates):
    family = Family(name, config)
    mask = candidate_mask(candidates, B)
    result = backward_grid(family, family.live, family.ema, family.target, mask, config, Division.into_chunks(4))
    loss = plain_loss(family, family.reference, family.ema, candidates, config)
    loss.backward()
    assert abs(float(result.loss.total) - float(loss.detach())) < TOLERANCE
    for found, expected in zip(family.live.parameters(), family.reference.parameters(), strict=True):
        assert (found.grad - expected.grad).abs().max() < TOLERANCE
        assert expected.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["sdxl", "sd3", "sd35"])
def test_training_steps_leave_the_backbones_bytes_alone(name):
    config = OBJECTIVES["agsm"]
    family = Family(name, config)
    module = family.denoiser.module
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    start = family.live.banks.detach().clone()
    optimizer = torch.optim.AdamW(family.live.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        backward_grid(
            family,
            family.live,
            family.ema,
            family.target,
            candidate_mask(CANDIDATES["all"], B),
            config,
            Division.into_chunks(None),
        )
        optimizer.step()
        update_ema(family.ema, family.live, 0.9)
    assert not torch.equal(family.live.banks, start)
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
