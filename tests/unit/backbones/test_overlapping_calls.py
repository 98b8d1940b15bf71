"""Calls of one denoiser that overlap, nest, or are cut off: each has its own timestep, rows and strength."""

import copy
import threading

import pytest
import torch
from torch.overrides import _len_torch_function_stack

from softalign.backbones.injection import CrossAttentionInjection
from softalign.backbones.joint_injection import JointAttentionInjection
from softalign.backbones.mmdit import joint_blocks
from softalign.backbones.unet import injection_sites
from softalign.method.soft_tokens import SoftTokens
from tests.tiny_sd3 import JOINT_WIDTH, POOLED_WIDTH, SD35, STREAM_WIDTH, make_transformer
from tests.tiny_unet import WIDTH, make_unet

S = 3


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class UNet:
    """A tiny U-Net with soft tokens; ``inner`` is a module inside a block that sees them."""

    def __init__(self, scale):
        self.module = make_unet()
        sites = injection_sites(self.module, ("down", "mid"))
        tokens = SoftTokens(drawn(2, S, WIDTH), drawn(100, WIDTH, seed=1)).requires_grad_(False)
        self.injection = CrossAttentionInjection(self.module, sites, tokens, scale)
        self.inner = self.module.down_blocks[0].resnets[0]

    def call(self, timestep):
        return self.module(drawn(2, 4, 4, 4), timestep, drawn(2, 5, WIDTH)).sample


class MMDiT:
    """The same of a tiny MMDiT."""

    def __init__(self, scale):
        self.module = make_transformer(**SD35)
        tokens = SoftTokens(drawn(2, 2, S, STREAM_WIDTH), drawn(100, 2 * STREAM_WIDTH, seed=1)).requires_grad_(False)
        self.injection = JointAttentionInjection(self.module, joint_blocks(self.module, 2), tokens, scale)
        self.inner = self.module.transformer_blocks[0].attn.to_q

    def call(self, timestep):
        text = drawn(2, 5, JOINT_WIDTH), drawn(2, POOLED_WIDTH)
        return self.module(drawn(2, 4, 4, 4), *text, torch.tensor([float(timestep)]).expand(2)).sample


@pytest.fixture(params=[UNet, MMDiT])
def kind(request):
    return request.param


@pytest.fixture(params=[1.0, 0.5])
def tiny(kind, request):
    with torch.no_grad():
        yield kind(request.param)


def during(tiny, act):
    """Run ``act`` once, in the next call, inside a block that sees the tokens; returns the hook."""
    once = iter([act])

    def hook(*_):
        for run in once:
            run()

    return tiny.inner.register_forward_hook(hook)


def test_a_call_that_begins_during_another_in_a_second_thread_changes_neither(tiny):
    early, late = tiny.call(10), tiny.call(990)
    assert not torch.equal(early, late)
    other = []
    thread = threading.Thread(target=lambda: other.append(torch.no_grad()(tiny.call)(990)))
    hook = during(tiny, lambda: (thread.start(), thread.join()))
    assert torch.equal(tiny.call(10), early)
    assert torch.equal(other[0], late)
    hook.remove()


def test_a_call_inside_a_call_changes_neither(tiny):
    early, late = tiny.call(10), tiny.call(990)
    other = []
    hook = during(tiny, lambda: other.append(tiny.call(990)))
    assert torch.equal(tiny.call(10), early)
    assert torch.equal(other[0], late)
    hook.remove()


@pytest.mark.parametrize("change", [0.0, 2.0, "disable"])
def test_a_call_keeps_the_strength_it_began_with(tiny, change):
    own = tiny.call(10)

    def act():
        if change == "disable":
            tiny.injection.is_enabled = False
        else:
            tiny.injection.scale = change

    hook = during(tiny, act)
    assert torch.equal(tiny.call(10), own)
    assert not torch.equal(tiny.call(10), own)
    hook.remove()


def test_lent_tokens_are_lent_to_one_thread(tiny):
    own, tokens = tiny.call(10), tiny.injection.tokens
    other = []
    with tiny.injection.using(tokens, torch.tensor([1, 1])):
        lent = tiny.call(10)
        thread = threading.Thread(target=lambda: other.append(torch.no_grad()(tiny.call)(10)))
        thread.start()
        thread.join()
    assert not torch.equal(lent, own)
    assert torch.equal(other[0], own)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interruption_inside_a_block_leaves_nothing_behind(tiny, error):
    own, other = tiny.call(10), make_transformer(seed=3)
    arguments = drawn(1, 4, 4, 4), drawn(1, 5, JOINT_WIDTH), drawn(1, POOLED_WIDTH), torch.tensor([7.0])
    untouched = other(*arguments).sample

    def fail():
        raise error

    hook = during(tiny, fail)
    with pytest.raises(error):
        tiny.call(990)
    hook.remove()
    assert _len_torch_function_stack() == 0
    assert torch.equal(other(*arguments).sample, untouched)
    assert torch.equal(tiny.call(10), own)
    tiny.injection.remove()
    plain = type(tiny)(1.0)
    plain.injection.remove()
    assert torch.equal(tiny.call(10), plain.call(10))


def test_a_copy_of_the_denoiser_has_its_own_tokens(tiny):
    own = tiny.call(10)
    twin = copy.copy(tiny)
    twin.module = copy.deepcopy(tiny.module)
    tiny.injection.scale = 0.0
    assert torch.equal(twin.call(10), own)
    tiny.injection.remove()
    assert torch.equal(twin.call(10), own)


def test_gradient_checkpointing_gives_the_same_gradient(tiny):
    tokens = tiny.injection.tokens.requires_grad_(True)
    gradients = []
    with torch.enable_grad():
        for is_checkpointed in (False, True):
            if is_checkpointed:
                tiny.module.train().enable_gradient_checkpointing()
            tokens.zero_grad()
            tiny.call(10).square().sum().backward()
            gradients.append(tokens.banks.grad.clone())
    assert gradients[0].abs().max() > 0
    assert torch.allclose(*gradients)
