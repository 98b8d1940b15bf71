"""Soft tokens of an MMDiT: each layer's in its own block, appended and taken off, and nothing else changed."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.attention_processor import JointAttnProcessor2_0, PAGCFGJointAttnProcessor2_0
from torch import nn

from softalign.backbones.biased_keys import BiasedTensor
from softalign.backbones.injection import find_injections
from softalign.backbones.joint_injection import JointAttentionInjection
from softalign.backbones.mmdit import MMDiTDenoiser, joint_blocks, stream_width
from softalign.errors import CompatibilityError, ConfigError
from softalign.method.forward_process import FlowProcess
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates
from tests.tiny_sd3 import JOINT_WIDTH, NUM_BLOCKS, POOLED_WIDTH, SD35, STREAM_WIDTH, make_transformer

L, S, D = 6, 3, STREAM_WIDTH
SHAPES = {"sd3": {}, "sd35": SD35, "sd35 large": {"qk_norm": "rms_norm"}}


@pytest.fixture(scope="module", params=SHAPES, ids=SHAPES)
def transformer(request):
    return make_transformer(dtype=torch.float64, **SHAPES[request.param])


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return {
        "hidden_states": draw(3, 4, 4, 4),
        "encoder_hidden_states": draw(3, L, JOINT_WIDTH),
        "pooled_projections": draw(3, POOLED_WIDTH),
        "timestep": torch.tensor([3.25, 500.0, 1000.0], dtype=torch.float64),
    }


def make_tokens(num_layers=NUM_BLOCKS, num_tokens=S, seed=2):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return SoftTokens(draw(2, num_layers, num_tokens, D), draw(100, num_layers * D)).requires_grad_(False)


def attach(transformer, tokens, scale=1.0):
    blocks = joint_blocks(transformer, tokens.num_layers)
    return JointAttentionInjection(transformer, blocks, tokens, scale)


def seen_text(transformer, run):
    """The text streams that enter and leave each joint block, beyond our hooks."""
    seen = []
    hooks = [
        block.register_forward_hook(
            lambda _m, _a, kwargs, output: seen.append((kwargs["encoder_hidden_states"], output[0])), with_kwargs=True
        )
        for block in transformer.transformer_blocks
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@pytest.mark.parametrize("num_layers", [1, 2, NUM_BLOCKS])
def test_each_block_sees_its_own_tokens_behind_its_text_and_passes_none_on(transformer, inputs, num_layers):
    tokens = make_tokens(num_layers)
    injection = attach(transformer, tokens)
    seen = seen_text(transformer, lambda: transformer(**inputs))
    injection.remove()
    expected = tokens(inputs["timestep"], torch.zeros(3, dtype=torch.long))
    for layer, (entering, leaving) in enumerate(seen):
        if layer < num_layers:
            assert entering.shape[1] == L + S
            assert torch.equal(entering[:, L:], expected[:, layer])
        else:
            assert entering.shape[1] == L
        if layer > 0:
            assert torch.equal(entering[:, :L], seen[layer - 1][1])
        assert leaving is None if layer == NUM_BLOCKS - 1 else leaving.shape[1] == L


@pytest.mark.parametrize(("layers", "places"), [("first", (0, 1)), ("last", (NUM_BLOCKS - 2, NUM_BLOCKS - 1))])
def test_the_denoiser_has_its_tokens_in_the_first_or_the_last_blocks(transformer, inputs, layers, places):
    tokens = make_tokens(2)
    denoiser = MMDiTDenoiser(transformer, tokens, FlowProcess(3.0), layers)
    seen = seen_text(transformer, lambda: transformer(**inputs))
    denoiser.close()
    expected = tokens(inputs["timestep"], torch.zeros(3, dtype=torch.long))
    assert [place for place, (entering, _) in enumerate(seen) if entering.shape[1] == L + S] == list(places)
    for layer, place in enumerate(places):
        assert torch.equal(seen[place][0][:, L:], expected[:, layer])


def test_appending_and_prepending_are_one_function(transformer, inputs):
    tokens = make_tokens()
    injection = attach(transformer, tokens)
    appended = transformer(**inputs).sample
    injection.remove()
    own = tokens(inputs["timestep"], torch.zeros(3, dtype=torch.long))
    hooks = []
    for layer, block in enumerate(transformer.transformer_blocks):

        def prepend(_module, args, kwargs, layer=layer):
            joined = torch.cat([own[:, layer], kwargs["encoder_hidden_states"]], 1)
            return args, {**kwargs, "encoder_hidden_states": joined}

        def take_off(_module, _args, output):
            return (None if output[0] is None else output[0][:, S:]), output[1]

        hooks += [
            block.register_forward_pre_hook(prepend, with_kwargs=True),
            block.register_forward_hook(take_off),
        ]
    prepended = transformer(**inputs).sample
    for hook in hooks:
        hook.remove()
    assert (appended - transformer(**inputs).sample).abs().max() > 1e-4
    assert torch.allclose(appended, prepended, atol=1e-12)


@pytest.mark.parametrize("how", ["scale 0", "disabled", "removed"])
def test_without_effect_the_output_is_that_of_diffusers_bit_for_bit(transformer, inputs, how):
    base = transformer(**inputs).sample
    injection = attach(transformer, make_tokens(), scale=0.5)
    assert not torch.equal(transformer(**inputs).sample, base)
    if how == "scale 0":
        injection.scale = 0.0
    elif how == "disabled":
        injection.is_enabled = False
    else:
        injection.remove()
    assert torch.equal(transformer(**inputs).sample, base)
    injection.remove()


def test_removal_leaves_no_hook_and_no_attribute():
    transformer = make_transformer()
    before = {name: set(vars(module)) for name, module in transformer.named_modules()}
    attach(transformer, make_tokens()).remove()
    assert {name: set(vars(module)) for name, module in transformer.named_modules()} == before
    for module in transformer.modules():
        hooks = (module._forward_pre_hooks, module._forward_hooks, module._forward_hooks_always_called)
        assert not any(hooks)
        assert not module._forward_pre_hooks_with_kwargs


def test_every_layers_tokens_change_the_output_and_enter_their_block_alone(transformer, inputs):
    tokens = make_tokens()
    injection = attach(transformer, tokens)
    plain = transformer(**inputs).sample
    before = seen_text(transformer, lambda: transformer(**inputs))
    for layer in range(NUM_BLOCKS):
        changed = SoftTokens(tokens.banks.detach().clone(), tokens.timestep_offsets.detach())
        changed.banks.data[0, layer] *= -1.0  # the blocks normalise: a constant added would do nothing
        injection.tokens = changed
        assert (transformer(**inputs).sample - plain).abs().max() > 1e-6
        after = seen_text(transformer, lambda: transformer(**inputs))
        are_equal = [torch.equal(old[0][:, L:], new[0][:, L:]) for old, new in zip(before, after, strict=True)]
        assert are_equal == [other != layer for other in range(NUM_BLOCKS)]
    injection.remove()


def test_scale_is_continuous_from_the_base_to_plain_insertion(transformer, inputs):
    base = transformer(**inputs).sample
    injection = attach(transformer, make_tokens())
    plain = transformer(**inputs).sample

    def at(scale):
        injection.scale = scale
        return transformer(**inputs).sample

    assert (at(1e-9) - base).abs().max() < 1e-6
    assert (at(1 + 1e-9) - plain).abs().max() < 1e-6
    distances = [float((at(scale) - base).norm()) for scale in (1e-3, 0.1, 0.5, 1.0)]
    assert distances == sorted(distances)
    injection.remove()


def test_scale_two_equals_every_token_inserted_twice(transformer, inputs):
    tokens = make_tokens()
    injection = attach(transformer, tokens, scale=2.0)
    scaled = transformer(**inputs).sample
    injection.remove()
    doubled = SoftTokens(torch.cat([tokens.banks, tokens.banks], 2).detach(), tokens.timestep_offsets.detach())
    injection = attach(transformer, doubled)
    twice = transformer(**inputs).sample
    injection.remove()
    assert torch.allclose(scaled, twice, atol=1e-10)


class _Manual:
    """A processor that computes attention without torch's function."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return hidden_states, encoder_hidden_states


class _Failing(JointAttnProcessor2_0):
    def __call__(self, *args, **kwargs):
        raise RuntimeError("no memory")


def test_a_processor_that_cannot_scale_is_refused_at_other_scales_only(inputs):
    transformer = make_transformer(dtype=torch.float64)
    transformer.transformer_blocks[0].attn.processor = _Manual()
    injection = attach(transformer, make_tokens(1))
    transformer(**inputs)
    injection.scale = 0.5
    with pytest.raises(CompatibilityError, match="_Manual"):
        transformer(**inputs)
    injection.remove()


def test_a_failed_call_leaves_no_bias_behind(inputs):
    transformer = make_transformer(dtype=torch.float64)
    base = transformer(**inputs).sample
    attention = transformer.transformer_blocks[0].attn
    own = attention.processor
    injection = attach(transformer, make_tokens(), scale=0.5)
    attention.processor = _Failing()
    with pytest.raises(RuntimeError, match="no memory"):
        transformer(**inputs)
    assert torch._C._len_torch_function_stack() == 0
    attention.processor = own
    injection.scale = 0.0
    assert torch.equal(transformer(**inputs).sample, base)
    injection.remove()


def test_only_the_joint_attention_is_biased_not_the_second_one_of_sd35(inputs):
    transformer = make_transformer(dtype=torch.float64, **SD35)
    injection = attach(transformer, make_tokens(1), scale=0.25)
    masks = []
    own = torch.nn.functional.scaled_dot_product_attention

    class Spy(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is own:
                key = args[1]
                masks.append(key.biased.mask(torch.zeros(key.shape), None) if isinstance(key, BiasedTensor) else None)
            return func(*args, **(kwargs or {}))

    with Spy():
        transformer(**inputs)
    injection.remove()
    assert [mask is not None for mask in masks] == [True, *[False] * NUM_BLOCKS]
    assert masks[0][0, 0, 0, -S:].tolist() == pytest.approx([math.log(0.25)] * S)
    assert (masks[0][..., :-S] == 0).all()


@pytest.mark.parametrize("changes", [{}, {"qk_norm": "rms_norm"}], ids=["sd3", "sd35 large"])
def test_strength_acts_on_both_attention_calls_of_perturbed_attention_guidance(inputs, changes):
    transformer, tokens = make_transformer(dtype=torch.float64, **changes), make_tokens()
    transformer.transformer_blocks[1].attn.processor = PAGCFGJointAttnProcessor2_0()
    base = transformer(**inputs).sample
    injection = attach(transformer, tokens, scale=1e-9)
    assert (transformer(**inputs).sample - base).abs().max() < 1e-6  # of the perturbed third of the rows as well
    injection.scale = 2.0
    scaled = transformer(**inputs).sample
    injection.remove()
    doubled = SoftTokens(torch.cat([tokens.banks, tokens.banks], 2).detach(), tokens.timestep_offsets.detach())
    injection = attach(transformer, doubled)
    assert torch.allclose(scaled, transformer(**inputs).sample, atol=1e-10)
    injection.remove()
    assert torch.equal(transformer(**inputs).sample, base)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 2.0)])
def test_two_adapters_side_by_side_are_one_with_the_tokens_of_both(transformer, inputs, scales):
    tokens, other = make_tokens(), make_tokens(num_tokens=2, seed=5)
    other.timestep_offsets.data.copy_(tokens.timestep_offsets.data)
    base = transformer(**inputs).sample
    blocks = joint_blocks(transformer, NUM_BLOCKS)
    first = JointAttentionInjection(transformer, blocks, tokens, scales[0])
    second = JointAttentionInjection(transformer, blocks, other, scales[1], is_composed=True)
    found = transformer(**inputs).sample
    first.remove()
    second.remove()
    assert torch.equal(transformer(**inputs).sample, base)
    repeats = [
        bank.repeat(1, 1, int(2 * scale), 1) for bank, scale in zip((tokens.banks, other.banks), scales, strict=True)
    ]
    joined = SoftTokens(torch.cat(repeats, 2).detach(), tokens.timestep_offsets.detach())
    injection = JointAttentionInjection(transformer, blocks, joined, 0.5)
    assert torch.allclose(found, transformer(**inputs).sample, atol=1e-10)
    injection.remove()


def test_rows_use_their_own_bank_and_other_tokens_for_a_while(transformer, inputs):
    tokens, other, banks = make_tokens(), make_tokens(seed=5), torch.tensor([0, 1, 0])
    injection = attach(transformer, tokens)
    with injection.using(other, banks):
        seen = seen_text(transformer, lambda: transformer(**inputs))
    after = seen_text(transformer, lambda: transformer(**inputs))
    injection.remove()
    assert torch.equal(seen[1][0][:, L:], other(inputs["timestep"], banks)[:, 1])
    assert torch.equal(after[1][0][:, L:], tokens(inputs["timestep"], torch.zeros(3, dtype=torch.long))[:, 1])


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_row_does_not_depend_on_its_batch(transformer, inputs, scale):
    injection = attach(transformer, make_tokens(), scale)
    together = transformer(**inputs).sample
    alone = torch.cat([transformer(**{name: value[[i]] for name, value in inputs.items()}).sample for i in range(3)])
    injection.remove()
    assert torch.allclose(together, alone, atol=1e-12)


def test_a_timestep_for_all_rows_reaches_the_tokens_by_place_too(transformer, inputs):
    tokens = make_tokens()
    injection = attach(transformer, tokens)
    arguments = (inputs["hidden_states"], inputs["encoder_hidden_states"], inputs["pooled_projections"])
    seen = seen_text(transformer, lambda: transformer(*arguments, torch.full((3,), 731.9)))
    injection.remove()
    assert torch.equal(seen[0][0][:, L:], tokens(torch.full((3,), 731.9), torch.zeros(3, dtype=torch.long))[:, 0])


def test_gradient_checkpointing_changes_no_value(inputs):
    transformer = make_transformer(dtype=torch.float64)
    injection = attach(transformer, make_tokens())
    plain = transformer(**inputs).sample
    transformer.enable_gradient_checkpointing()
    assert torch.equal(transformer(**inputs).sample, plain)
    injection.remove()


def test_skipped_layers_take_their_tokens_with_them(transformer, inputs):
    """Skip-layer guidance of SD3.5 leaves blocks out."""
    injection = attach(transformer, make_tokens())
    skipped = transformer(**inputs, skip_layers=[0]).sample
    assert not torch.equal(skipped, transformer(**inputs).sample)
    injection.remove()


def test_only_tokens_get_a_gradient(transformer, inputs):
    live = make_tokens().requires_grad_(True)
    injection = attach(transformer, live)
    transformer(**inputs).sample.square().mean().backward()
    injection.remove()
    assert (live.banks.grad[0] != 0).all()
    assert (live.banks.grad[1] == 0).all()
    assert sorted(live.timestep_offsets.grad.abs().sum(1).nonzero().flatten().tolist()) == [0, 50, 99]
    assert all(parameter.grad is None for parameter in transformer.parameters())


def test_the_denoiser_predicts_with_each_rows_bank_and_closes():
    transformer = make_transformer()
    tokens = make_tokens(2).float()
    denoiser = MMDiTDenoiser(transformer, tokens, FlowProcess(3.0))
    latents, text = torch.randn(1, 4, 4, 4), TextStates(torch.randn(1, L, JOINT_WIDTH), torch.randn(1, POOLED_WIDTH))
    twice = latents.expand(2, -1, -1, -1), torch.tensor([10.5, 10.5]), text.rows([0, 0])
    first, second = denoiser.predict(*twice, tokens, torch.tensor([0, 1]))
    assert not torch.allclose(first, second, atol=1e-5)
    denoiser.close()
    assert find_injections(transformer) == ()
    plain = transformer(
        hidden_states=latents,
        encoder_hidden_states=text.prompt_embeds_NLD,
        pooled_projections=text.pooled_NP,
        timestep=torch.tensor([10.5]),
    ).sample
    assert not torch.allclose(first, plain[0], atol=1e-5)


def test_more_layers_than_blocks_are_refused(transformer):
    with pytest.raises(ConfigError, match="joint blocks") as error:
        joint_blocks(transformer, NUM_BLOCKS + 1)
    assert error.value.expected == f"at most {NUM_BLOCKS}"
    assert joint_blocks(transformer, 2) == list(transformer.transformer_blocks[:2])
    assert joint_blocks(transformer, 2, "last") == list(transformer.transformer_blocks[-2:])
    assert joint_blocks(transformer, NUM_BLOCKS, "last") == joint_blocks(transformer, NUM_BLOCKS)


def test_another_kind_of_denoiser_is_refused():
    with pytest.raises(CompatibilityError, match="Linear"):
        joint_blocks(nn.Linear(2, 2), 1)


def test_the_tokens_have_the_width_of_the_stream(transformer):
    assert stream_width(transformer) == STREAM_WIDTH


def test_our_noisy_latents_are_those_of_diffusers_scheduler():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    from softalign.method.forward_process import NoiseDraw

    latents, noise = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    times = torch.tensor([0.25, 0.5], dtype=torch.float64)
    ours = FlowProcess(scheduler.config.shift).diffuse(latents, NoiseDraw(times, noise))
    places = [int((scheduler.timesteps - step).abs().argmin()) for step in ours.timesteps_B]
    assert torch.allclose(scheduler.timesteps[places], ours.timesteps_B, atol=1.5)
    theirs = scheduler.scale_noise(latents, scheduler.timesteps[places], noise)
    assert torch.allclose(theirs, ours.noisy_latents_BCHW, atol=5e-3)


@pytest.mark.slow  # torch.compile of a whole transformer
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_torch_compile_keeps_the_tokens(transformer, inputs, scale, without_shape_checks):
    injection = attach(transformer, make_tokens(), scale)
    eager = transformer(**inputs).sample
    torch.compiler.reset()
    compiled = torch.compile(transformer, backend="eager")(**inputs).sample
    injection.remove()
    torch.compiler.reset()
    assert torch.allclose(eager, compiled, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_blocks_that_are_compiled_each_keep_their_own_tokens(inputs, scale, without_shape_checks):
    """As ``compile_repeated_blocks`` of diffusers does; torch.compile shares the code among equal blocks."""
    torch.compiler.reset()
    transformer = make_transformer(dtype=torch.float64)
    injection = attach(transformer, make_tokens(2), scale)
    eager = transformer(**inputs).sample
    for block in transformer.transformer_blocks:
        block.compile(backend="eager")
    assert torch.allclose(transformer(**inputs).sample, eager, atol=1e-12)
    injection.remove()
    torch.compiler.reset()
