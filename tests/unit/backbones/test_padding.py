"""Padding of an MMDiT's text stream, which tokens can start as: what it is, and that blocks take it for more of it."""

import pytest
import torch

from softalign.backbones.mmdit import MMDiTDenoiser, joint_blocks
from softalign.backbones.padding import padding_states
from softalign.method.forward_process import FlowProcess
from softalign.method.soft_tokens import SoftTokens, TokensShape, soft_tokens_from_padding
from softalign.method.text_states import TextStates
from tests.tiny_sd3 import JOINT_WIDTH, NUM_BLOCKS, POOLED_WIDTH, SD35, make_transformer

SHAPES = {"sd3": {}, "sd35": SD35, "sd35 large": {"qk_norm": "rms_norm"}}
L, S = 6, 3


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=SHAPES, ids=SHAPES)
def transformer(request):
    return make_transformer(**SHAPES[request.param])


@pytest.fixture
def empty():
    return TextStates(draw(1, L, JOINT_WIDTH), draw(1, POOLED_WIDTH))


def predicted(transformer, text, tokens):
    denoiser = MMDiTDenoiser(transformer, tokens, FlowProcess(3.0))
    banks_N = torch.zeros(2, dtype=torch.int64)
    try:
        return denoiser.predict(draw(2, 4, 4, 4, seed=2), torch.tensor([120.0, 900.0]), text, tokens, banks_N)
    finally:
        denoiser.close()


def test_each_block_has_its_own_and_the_first_ones_is_the_texts_last_position(transformer, empty):
    states = padding_states(transformer, joint_blocks(transformer, NUM_BLOCKS), empty)
    assert states.dtype == torch.float32
    assert len({tuple(state.tolist()) for state in states}) == NUM_BLOCKS
    with torch.no_grad():
        embedded = transformer.context_embedder(empty.prompt_embeds_NLD)[0, -1]
    torch.testing.assert_close(states[0], embedded)
    assert torch.equal(padding_states(transformer, joint_blocks(transformer, 1, "last"), empty)[0], states[-1])


def test_no_hook_and_no_gradient_is_left(transformer, empty):
    blocks = joint_blocks(transformer, NUM_BLOCKS)
    assert not padding_states(transformer, blocks, empty).requires_grad
    with pytest.raises(RuntimeError):
        padding_states(transformer, blocks, TextStates(draw(1, L, JOINT_WIDTH + 1), empty.pooled_NP))
    assert not any(block._forward_pre_hooks for block in blocks)


@torch.no_grad()
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_a_block_takes_such_tokens_for_further_padding(changes, empty):
    transformer = make_transformer(num_layers=1, **changes)
    states = padding_states(transformer, joint_blocks(transformer, 1), empty)
    words_2LD, padding_2LD = draw(2, L, JOINT_WIDTH, seed=3), empty.prompt_embeds_NLD[:, -1:].expand(2, S, -1)
    pooled_2P = draw(2, POOLED_WIDTH, seed=4)
    tokens = soft_tokens_from_padding(states, TokensShape(1, S, 100, 1), std=5.0)
    found = predicted(transformer, TextStates(words_2LD, pooled_2P), tokens)
    longer = transformer(
        hidden_states=draw(2, 4, 4, 4, seed=2),
        encoder_hidden_states=torch.cat([words_2LD, padding_2LD], dim=1),
        pooled_projections=pooled_2P,
        timestep=torch.tensor([120.0, 900.0]),
    ).sample
    torch.testing.assert_close(found, longer, rtol=1e-3, atol=1e-4)
    drawn = SoftTokens(draw(1, 1, S, tokens.width, seed=5), None)
    assert (predicted(transformer, TextStates(words_2LD, pooled_2P), drawn) - longer).abs().max() > 1e-3


@torch.no_grad()
def test_blocks_see_a_tokens_direction_alone(transformer, empty):
    states = padding_states(transformer, joint_blocks(transformer, NUM_BLOCKS), empty)
    prompts = TextStates(draw(2, L, JOINT_WIDTH, seed=3), draw(2, POOLED_WIDTH, seed=4))
    short, long = (
        predicted(transformer, prompts, soft_tokens_from_padding(states, TokensShape(1, S, 100, NUM_BLOCKS), std=std))
        for std in (0.1, 5.0)
    )
    torch.testing.assert_close(short, long, rtol=1e-3, atol=1e-4)
