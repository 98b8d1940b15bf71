import math

import pytest
import torch

from softalign.backbones.injection import CrossAttentionInjection, find_injections
from softalign.backbones.unet import injection_sites
from softalign.errors import CompatibilityError, ConfigError
from softalign.method.soft_tokens import SoftTokens
from tests.tiny_unet import make_unet

L, S, D = 6, 3, 8


@pytest.fixture(scope="module")
def unet():
    return make_unet(dtype=torch.float64)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return {
        "sample": draw(3, 4, 4, 4),
        "timestep": torch.tensor([3, 500, 999]),
        "encoder_hidden_states": draw(3, L, D),
    }


@pytest.fixture
def tokens():
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return SoftTokens(draw(2, S, D), draw(100, D)).requires_grad_(False)


def attach(unet, tokens, blocks=("down", "mid"), scale=1.0):
    return CrossAttentionInjection(unet, injection_sites(unet, blocks), tokens, scale)


def seen_text(unet, run):
    """The text states and masks that each part's cross-attention blocks are called with, after our hooks."""
    seen = {}
    parts = {"down": unet.down_blocks[0], "mid": unet.mid_block, "up": unet.up_blocks[1]}
    hooks = [
        part.register_forward_hook(
            lambda _m, _a, kwargs, _o, name=name: seen.__setitem__(
                name, (kwargs["encoder_hidden_states"], kwargs.get("encoder_attention_mask"))
            ),
            with_kwargs=True,
        )
        for name, part in parts.items()
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def test_chosen_blocks_see_the_tokens_behind_bos_and_the_others_plain_text(unet, inputs, tokens):
    text = inputs["encoder_hidden_states"]
    injection = attach(unet, tokens)
    seen = seen_text(unet, lambda: unet(**inputs))
    injection.remove()
    expected = torch.cat([text[:, :1], tokens(inputs["timestep"], torch.zeros(3, dtype=torch.long)), text[:, 1:]], 1)
    assert torch.equal(seen["down"][0], expected)
    assert torch.equal(seen["mid"][0], expected)
    assert torch.equal(seen["up"][0], text)
    assert seen["down"][1] is None


@pytest.mark.parametrize("blocks", [("down",), ("mid",), ("up",), ("mid", "up"), ("down", "mid", "up")])
def test_every_placement_changes_the_output_in_its_own_way(unet, inputs, tokens, blocks):
    injection = attach(unet, tokens, blocks)
    seen = seen_text(unet, lambda: unet(**inputs))
    injection.remove()
    assert {name for name, (text, _) in seen.items() if text.shape[1] == L + S} == set(blocks)


def test_tokens_change_the_output(unet, inputs, tokens):
    base = unet(**inputs).sample
    injection = attach(unet, tokens)
    assert (unet(**inputs).sample - base).abs().max() > 1e-4
    injection.remove()


@pytest.mark.parametrize("how", ["scale 0", "disabled", "removed"])
def test_without_effect_the_output_is_that_of_diffusers_bit_for_bit(unet, inputs, tokens, how):
    base = unet(**inputs).sample
    injection = attach(unet, tokens)
    unet(**inputs)
    if how == "scale 0":
        injection.scale = 0.0
    elif how == "disabled":
        injection.is_enabled = False
    else:
        injection.remove()
    assert torch.equal(unet(**inputs).sample, base)
    injection.remove()


def test_removal_leaves_no_hook_and_no_attribute():
    unet = make_unet(dtype=torch.float64)
    before = {name: set(vars(module)) for name, module in unet.named_modules()}
    injection = attach(unet, SoftTokens(torch.zeros(1, S, D), torch.zeros(100, D)), ("down", "mid", "up"))
    injection.remove()
    assert {name: set(vars(module)) for name, module in unet.named_modules()} == before
    for module in unet.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
        assert not module._forward_pre_hooks_with_kwargs


def test_scale_is_continuous_from_the_base_to_plain_insertion(unet, inputs, tokens):
    base = unet(**inputs).sample
    injection = attach(unet, tokens)
    plain = unet(**inputs).sample

    def at(scale):
        injection.scale = scale
        return unet(**inputs).sample

    assert (at(1e-9) - base).abs().max() < 1e-6
    assert (at(1 + 1e-9) - plain).abs().max() < 1e-6
    distances = [float((at(scale) - base).norm()) for scale in (1e-3, 0.1, 0.5, 1.0)]
    assert distances == sorted(distances)
    injection.remove()


def test_scale_two_equals_every_token_inserted_twice(unet, inputs, tokens):
    injection = attach(unet, tokens, scale=2.0)
    scaled = unet(**inputs).sample
    injection.remove()
    doubled = SoftTokens(torch.cat([tokens.banks, tokens.banks], 1).detach(), tokens.timestep_offsets.detach())
    injection = attach(unet, doubled)
    twice = unet(**inputs).sample
    injection.remove()
    assert torch.allclose(scaled, twice, atol=1e-10)


@pytest.mark.parametrize("timestep", [500, 500.0, torch.tensor(500), torch.tensor([500]), torch.tensor(500.0)])
def test_any_form_of_a_shared_timestep_reaches_the_tokens(unet, inputs, tokens, timestep):
    injection = attach(unet, tokens)
    seen = seen_text(unet, lambda: unet(inputs["sample"], timestep, inputs["encoder_hidden_states"]))
    injection.remove()
    expected = tokens(torch.full((3,), 500), torch.zeros(3, dtype=torch.long))
    assert torch.equal(seen["mid"][0][:, 1 : 1 + S], expected)


def test_rows_use_their_own_bank_and_other_tokens_for_a_while(unet, inputs, tokens):
    injection = attach(unet, tokens)
    other = SoftTokens(tokens.banks.detach() + 1, tokens.timestep_offsets.detach())
    banks = torch.tensor([0, 1, 0])
    with injection.using(other, banks):
        seen = seen_text(unet, lambda: unet(**inputs))
    after = seen_text(unet, lambda: unet(**inputs))
    injection.remove()
    assert torch.equal(seen["mid"][0][:, 1 : 1 + S], other(inputs["timestep"], banks))
    assert torch.equal(after["mid"][0][:, 1 : 1 + S], tokens(inputs["timestep"], torch.zeros(3, dtype=torch.long)))


def test_a_row_does_not_depend_on_its_batch(unet, inputs, tokens):
    injection = attach(unet, tokens)
    together = unet(**inputs).sample
    alone = torch.cat([unet(**{name: value[[i]] for name, value in inputs.items()}).sample for i in range(3)])
    injection.remove()
    assert torch.allclose(together, alone, atol=1e-12)


def test_a_mask_of_the_text_is_kept_and_tokens_stay_visible(unet, inputs, tokens):
    mask = torch.ones(3, L)
    mask[:, 4:] = 0
    injection = attach(unet, tokens)
    masked = unet(**inputs, encoder_attention_mask=mask).sample
    changed = {**inputs, "encoder_hidden_states": inputs["encoder_hidden_states"].clone()}
    changed["encoder_hidden_states"][:, 4:] += 5.0
    hidden_change = unet(**changed, encoder_attention_mask=mask).sample
    seen = seen_text(unet, lambda: unet(**inputs, encoder_attention_mask=mask))
    injection.scale = 0.0
    assert torch.equal(unet(**inputs, encoder_attention_mask=mask).sample, _plain(unet, injection, inputs, mask))
    assert torch.allclose(masked, hidden_change, atol=1e-10)
    bias = seen["mid"][1]
    assert bias.shape == (3, 1, L + S)
    assert (bias[:, 0, : S + 4] == 0).all()
    assert (bias[:, 0, S + 4 :] == -10000).all()


def _plain(unet, injection, inputs, mask):
    injection.remove()
    return unet(**inputs, encoder_attention_mask=mask).sample


def test_scaled_bias_is_the_logarithm_on_the_tokens_alone(unet, inputs, tokens):
    injection = attach(unet, tokens, scale=0.25)
    bias = seen_text(unet, lambda: unet(**inputs))["down"][1]
    injection.remove()
    expected = [0.0] + [math.log(0.25)] * S + [0.0] * (L - 1)
    assert bias[0, 0].tolist() == pytest.approx(expected)


def test_only_tokens_get_a_gradient(unet, inputs):
    live = SoftTokens(torch.randn(1, S, D, dtype=torch.float64), torch.randn(100, D, dtype=torch.float64))
    injection = attach(unet, live)
    unet(**inputs).sample.square().mean().backward()
    injection.remove()
    assert live.banks.grad.abs().min() > 0
    assert all(parameter.grad is None for parameter in unet.parameters())


@pytest.mark.slow  # half a minute
def test_torch_compile_keeps_the_tokens(unet, inputs, tokens, without_shape_checks):
    injection = attach(unet, tokens)
    eager = unet(**inputs).sample
    torch.compiler.reset()
    compiled = torch.compile(unet, backend="eager")(**inputs).sample
    injection.remove()
    torch.compiler.reset()
    assert torch.allclose(eager, compiled, atol=1e-12)


def test_a_second_adapter_is_refused(unet, tokens):
    injection = attach(unet, tokens)
    assert find_injections(unet) == (injection,)
    with pytest.raises(CompatibilityError, match="carries soft tokens already"):
        attach(unet, tokens)
    injection.remove()
    assert find_injections(unet) == ()


@pytest.mark.parametrize("scale", [-0.1, 1000.1, 1e30, math.nan, math.inf])
def test_an_impossible_scale_is_refused_and_leaves_no_hook(unet, tokens, scale):
    with pytest.raises(ConfigError, match="out of range"):
        attach(unet, tokens, scale=scale)
    assert find_injections(unet) == ()
