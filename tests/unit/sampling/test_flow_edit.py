"""FlowEdit: algorithm 1 of the paper, restated plainly, and what must come back unchanged."""

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from softalign.adapters.attach import load_soft_tokens
from softalign.backbones.loading import load_backbone
from softalign.config import BackboneConfig
from softalign.errors import ConfigError
from softalign.method.forward_process import keyed_generator
from softalign.sampling.flow_edit import FlowEditSettings, flow_edit
from softalign.sampling.image_editing import guided_velocity

SETTINGS = FlowEditSettings(num_inference_steps=5, n_max=4, seed=3)
FROM, TO = "a red circle", "a blue square"


@pytest.fixture(scope="module")
def backbone(tiny_mmdit):
    config = BackboneConfig(family="sd3", model=tiny_mmdit.base, has_t5=False, max_sequence_length=6)
    return load_backbone(config, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def latents():
    return torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(1))


def sigmas_of(backbone, settings):
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(backbone.pipeline.scheduler.config)
    scheduler.set_timesteps(settings.num_inference_steps)
    return scheduler.sigmas


def velocities(backbone, source, target, settings):
    own, empty = backbone.encode_for_guidance([source, target])
    scales = settings.source_guidance_scale, settings.target_guidance_scale
    return [guided_velocity(backbone, own.rows([n]), empty.rows([n]), scale) for n, scale in enumerate(scales)]


def edit(backbone, latents, source, target, settings=SETTINGS, **options):
    return flow_edit(
        latents, sigmas_of(backbone, settings), *velocities(backbone, source, target, settings), settings, **options
    )


def restated(backbone, x_src, source, target, s):
    """Algorithm 1 as the paper writes it: t_i with i counting down, one denoiser call for each row."""
    pipe = backbone.pipeline
    t = [float(sigma) for sigma in sigmas_of(backbone, s)][::-1]
    states = {}
    for prompt in (source, target):
        embeds = pipe.encode_prompt(prompt, prompt, prompt, max_sequence_length=6)
        states[prompt], states[""] = (embeds[0], embeds[2]), (embeds[1], embeds[3])

    def v(z, prompt, scale, time):
        rows = []
        for words in ("", prompt):
            embeds, pooled = states[words]
            rows.append(pipe.transformer(z, embeds, pooled, torch.tensor([1000 * time]), return_dict=False)[0])
        return rows[0] + scale * (rows[1] - rows[0])

    def noise(i, k):
        return torch.randn(x_src.shape, generator=keyed_generator("flowedit", s.seed, i, k))

    z_fe = x_src.clone()
    for i in range(s.n_max, s.n_min, -1):
        v_delta = 0.0
        for k in range(s.n_avg):
            z_src = (1 - t[i]) * x_src + t[i] * noise(i, k)
            z_tar = z_fe + z_src - x_src
            v_tar = v(z_tar, target, s.target_guidance_scale, t[i])
            v_delta = v_delta + (v_tar - v(z_src, source, s.source_guidance_scale, t[i])) / s.n_avg
        z_fe = z_fe + (t[i - 1] - t[i]) * v_delta
    if s.n_min == 0:
        return z_fe
    z_tar = z_fe + (1 - t[s.n_min]) * x_src + t[s.n_min] * noise(s.n_min, 0) - x_src
    for i in range(s.n_min, 0, -1):
        z_tar = z_tar + (t[i - 1] - t[i]) * v(z_tar, target, s.target_guidance_scale, t[i])
    return z_tar


@pytest.mark.parametrize(
    "changes", [{}, {"n_avg": 3}, {"n_min": 2}, {"n_min": 4}, {"n_max": 5}, {"source_guidance_scale": 1.0}]
)
def test_it_is_algorithm_1_of_the_paper(backbone, latents, changes):
    settings = replace(SETTINGS, **changes)
    with torch.no_grad():
        expected = restated(backbone, latents, FROM, TO, settings)
    found = edit(backbone, latents, FROM, TO, settings)
    assert torch.allclose(found, expected, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(found, latents, atol=1e-2)


@pytest.mark.parametrize("changes", [{}, {"n_avg": 2}, {"source_guidance_scale": 1.0, "target_guidance_scale": 1.0}])
def test_equal_prompts_and_guidance_give_the_image_back_bit_for_bit(backbone, latents, tiny_mmdit, changes):
    settings = replace(SETTINGS, **{"source_guidance_scale": 13.5, **changes})
    assert torch.equal(edit(backbone, latents, FROM, FROM, settings), latents)
    with load_soft_tokens(backbone.pipeline, tiny_mmdit.adapter):
        assert torch.equal(edit(backbone, latents, FROM, FROM, settings), latents)


def test_no_steps_change_nothing_and_call_nothing(latents):
    settings = replace(SETTINGS, n_max=0)
    assert torch.equal(flow_edit(latents, torch.linspace(1, 0, 6), None, None, settings), latents)


def test_the_seed_and_nothing_else_decides(backbone, latents):
    state = torch.get_rng_state()
    first = edit(backbone, latents, FROM, TO)
    torch.manual_seed(99)
    assert torch.equal(edit(backbone, latents, FROM, TO), first)
    torch.set_rng_state(state)
    assert not torch.equal(edit(backbone, latents, FROM, TO, replace(SETTINGS, seed=4)), first)


def test_the_tokens_act_and_at_strength_0_the_base_itself_edits(backbone, latents, tiny_mmdit):
    plain = edit(backbone, latents, FROM, TO)
    with load_soft_tokens(backbone.pipeline, tiny_mmdit.adapter) as handle:
        assert not torch.allclose(edit(backbone, latents, FROM, TO), plain, atol=1e-3)
        handle.set_scale(0.0)
        assert torch.equal(edit(backbone, latents, FROM, TO), plain)
    assert torch.equal(edit(backbone, latents, FROM, TO), plain)


def test_the_tokens_are_seen_by_source_and_target_on_both_branches(backbone, latents, tiny_mmdit):
    """With psi+ everywhere, an edit is that by velocities which are each computed with the tokens."""
    own, empty = backbone.encode_for_guidance([FROM])
    sees = {}
    for name, states in (("own", own), ("empty", empty)):
        velocity = guided_velocity(backbone, states, states, 1.0)
        without = velocity(latents, 0.5)
        with load_soft_tokens(backbone.pipeline, tiny_mmdit.adapter):
            sees[name] = velocity(latents, 0.5), without
    assert all(not torch.equal(tokens, without) for tokens, without in sees.values())
    with load_soft_tokens(backbone.pipeline, tiny_mmdit.adapter):
        guided = guided_velocity(backbone, own, empty, 3.0)(latents, 0.5)
    expected = sees["empty"][0] + 3.0 * (sees["own"][0] - sees["empty"][0])
    assert torch.allclose(guided, expected, atol=1e-5)


def test_every_step_is_told(backbone, latents):
    for settings in (SETTINGS, replace(SETTINGS, n_min=2)):
        done = []
        edit(backbone, latents, FROM, TO, settings, on_step=done.append)
        assert done == [1, 2, 3, 4]


def test_the_defaults_are_the_papers_for_sd3():
    assert FlowEditSettings() == FlowEditSettings(50, 33, 0, 1, 3.5, 13.5, 0)


@pytest.mark.parametrize(
    "changes",
    [
        *({"n_max": 6}, {"n_min": 5}, {"n_min": -1}, {"n_avg": 0}, {"num_inference_steps": 0, "n_max": 0}),
        *({"source_guidance_scale": 0.5}, {"target_guidance_scale": float("nan")}),
    ],
)
def test_steps_and_guidance_that_cannot_be_are_refused(changes):
    with pytest.raises(ConfigError, match="FlowEdit cannot"):
        replace(SETTINGS, **changes)
