import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from softalign.method.forward_process import DDPMProcess, FlowProcess, draw_noise, keyed_generator, shifted_sigmas

SHAPE = (4, 3, 2, 2)


def test_the_same_key_gives_the_same_draw_whatever_the_global_generator_does():
    torch.manual_seed(1)
    first = draw_noise(SHAPE, sharing="per_image", seed=7, samples_seen=40)
    torch.manual_seed(2)
    again = draw_noise(SHAPE, sharing="per_image", seed=7, samples_seen=40)
    assert torch.equal(first.noise_BCHW, again.noise_BCHW)
    assert torch.equal(first.times_B, again.times_B)


@pytest.mark.parametrize("other", [{"seed": 8}, {"samples_seen": 44}])
def test_another_seed_or_batch_gives_another_draw(other):
    key = {"seed": 7, "samples_seen": 40}
    for sharing in ("shared", "per_image"):
        first = draw_noise(SHAPE, sharing=sharing, **key)
        second = draw_noise(SHAPE, sharing=sharing, **{**key, **other})
        assert not torch.equal(first.noise_BCHW, second.noise_BCHW)


def test_shared_is_one_timestep_and_noise_and_per_image_shares_none():
    shared = draw_noise(SHAPE, sharing="shared", seed=0, samples_seen=0)
    assert all(torch.equal(shared.noise_BCHW[0], noise) for noise in shared.noise_BCHW)
    assert shared.times_B.unique().numel() == 1
    own = draw_noise((64, 3, 2, 2), sharing="per_image", seed=0, samples_seen=0)
    assert own.noise_BCHW.flatten(1).unique(dim=0).shape[0] == 64
    assert own.times_B.unique().numel() > 32


def test_an_images_draw_does_not_depend_on_where_the_batch_begins():
    late = draw_noise((2, 3, 2, 2), sharing="per_image", seed=0, samples_seen=2)
    early = draw_noise(SHAPE, sharing="per_image", seed=0, samples_seen=0)
    assert torch.equal(early.noise_BCHW[2:], late.noise_BCHW)


def test_timesteps_are_uniform_over_0_to_999_and_noise_is_standard_normal():
    draw = draw_noise((4000, 1, 2, 2), sharing="per_image", seed=0, samples_seen=0)
    assert draw.times_B.min() >= 0
    assert draw.times_B.max() < 1
    assert torch.histc(draw.times_B.float(), 4, 0, 1).tolist() == pytest.approx([1000] * 4, rel=0.12)
    assert float(draw.noise_BCHW.mean()) == pytest.approx(0, abs=0.03)
    assert float(draw.noise_BCHW.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noisy_latents_and_targets_are_those_of_diffusers_scheduler(prediction_type):
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    draw = draw_noise(SHAPE, sharing="per_image", seed=0, samples_seen=0)
    noisy = DDPMProcess(scheduler.alphas_cumprod, prediction_type).diffuse(latents, draw)
    expected = scheduler.add_noise(latents, draw.noise_BCHW, noisy.timesteps_B)
    assert torch.allclose(noisy.noisy_latents_BCHW, expected, atol=1e-6)
    target = draw.noise_BCHW
    if prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, draw.noise_BCHW, noisy.timesteps_B)
    assert torch.allclose(noisy.target_BCHW, target, atol=1e-6)


def test_a_perfect_velocity_gives_back_the_latents():
    alphas = torch.linspace(0.999, 0.001, 1000, dtype=torch.float64)
    latents = torch.randn(SHAPE, dtype=torch.float64)
    draw = draw_noise(SHAPE, sharing="per_image", seed=0, samples_seen=0)
    noisy = DDPMProcess(alphas, "v_prediction").diffuse(latents, draw)
    alpha = alphas[noisy.timesteps_B][:, None, None, None]
    restored = alpha.sqrt() * noisy.noisy_latents_BCHW - (1 - alpha).sqrt() * noisy.target_BCHW
    assert torch.allclose(restored, latents, atol=1e-12)


def test_flow_latents_and_targets_are_those_of_diffusers_scheduler():
    latents = torch.randn(SHAPE, dtype=torch.float64)
    draw = draw_noise(SHAPE, sharing="per_image", seed=0, samples_seen=0)
    noisy = FlowProcess(shift=3.0).diffuse(latents, draw)
    sigmas = (noisy.timesteps_B / 1000)[:, None, None, None]
    assert torch.allclose(noisy.noisy_latents_BCHW, sigmas * draw.noise_BCHW + (1 - sigmas) * latents)
    assert torch.allclose(noisy.noisy_latents_BCHW - sigmas * noisy.target_BCHW, latents)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    uniform = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert torch.allclose(shifted_sigmas(uniform, 3.0).flip(0).float(), scheduler.sigmas[:1000])


def test_keys_are_not_confused_by_where_their_parts_end():
    assert keyed_generator("a", 1, 23).initial_seed() != keyed_generator("a", 12, 3).initial_seed()
