"""Kept rows give the predictions and gradients of the plain hooks, and leave nothing behind."""

import doctest
import gc
import weakref
from contextlib import nullcontext

import pytest
import torch

from softalign.backbones import row_cache
from softalign.backbones.row_cache import RowCache, SharedParts
from softalign.config import AGSMConfig
from softalign.config.objective import OBJECTIVES
from softalign.method.text_states import TextStates
from softalign.training.pair_grid import Division, Pairs, backward_grid
from tests.tiny_families import FAMILIES, drawn
from tests.tiny_families import NUM_TOKENS as S
from tests.tiny_families import TEXT_LENGTH as L

B, P, SIZE = 3, 4, 8
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]], dtype=torch.bool)


class Case:
    """A tiny denoiser of a family with a batch of B images and P prompts."""

    def __init__(self, family, blocks=("down", "mid")):
        family = FAMILIES[family]
        self.latents, self.target = drawn(B, 4, SIZE, SIZE, seed=1), drawn(B, 4, SIZE, SIZE, seed=2)
        self.timesteps = torch.tensor([17, 500, 985])
        self.text = family.text(P, seed=3)
        self.live, self.ema = family.tokens(2, seed=5), family.tokens(2, seed=7)
        self.denoiser = family.denoiser(self.live, blocks=blocks)

    def predict(self, pairs, tokens):
        with self.denoiser.row_cache.rows(pairs.images_N, pairs.prompts_N, L):
            return self.denoiser.predict(
                self.latents[pairs.images_N],
                self.timesteps[pairs.images_N],
                self.text.rows(pairs.prompts_N),
                tokens,
                pairs.banks_N,
            )

    def gradients(self, config, size, *, is_kept):
        for parameter in self.live.parameters():
            parameter.grad = None
        with self.denoiser.row_cache.one_batch() if is_kept else nullcontext():
            result = backward_grid(
                self.predict, self.live, self.ema, self.target, MASK, config, Division.into_chunks(size)
            )
        return result, [parameter.grad.clone() for parameter in self.live.parameters()]


PLACEMENTS = [("down", "mid"), ("mid",), ("up",), ("mid", "up"), ("down", "up")]


def assert_equal_steps(case, config, size):
    plain, plain_gradients = case.gradients(config, None, is_kept=False)
    kept, kept_gradients = case.gradients(config, size, is_kept=True)
    assert (plain.errors_N - kept.errors_N).abs().max() < 1e-10
    for left, right in zip(plain_gradients, kept_gradients, strict=True):
        assert left.abs().max() > 0
        assert (left - right).abs().max() < 1e-10


def test_the_worked_example_computes_two_images_and_three_prompts_of_six_pairs():
    assert doctest.testmod(row_cache) == doctest.TestResults(failed=0, attempted=8)


@pytest.mark.parametrize("name", ["agsm", "softrepa", "score_matching"])
@pytest.mark.parametrize("size", [None, 1, 4, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_rows_give_the_plain_hooks_errors_and_gradients(family, size, name):
    case = Case(family)
    assert_equal_steps(case, OBJECTIVES[name](), size)
    case.denoiser.close()


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("blocks", PLACEMENTS, ids="-".join)
def test_every_placement_gives_the_plain_hooks_errors_and_gradients(family, blocks):
    assert_equal_steps(Case(family, blocks), AGSMConfig(), 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_next_batch_sees_none_of_the_rows_of_the_one_before(family):
    case = Case(family)
    case.gradients(AGSMConfig(), None, is_kept=True)
    case.latents, case.text = (
        case.latents + 1.0,
        TextStates(
            case.text.prompt_embeds_NLD + 1.0, None if case.text.pooled_NP is None else case.text.pooled_NP + 1.0
        ),
    )
    assert_equal_steps(case, AGSMConfig(), None)


@pytest.mark.parametrize("family", FAMILIES)
def test_after_a_step_modules_are_as_before_even_a_failed_one(family):
    case = Case(family)
    module = case.denoiser.module
    attributes = {name: dict(vars(part)) for name, part in module.named_modules()}
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    case.gradients(AGSMConfig(), 4, is_kept=True)
    with pytest.raises(ZeroDivisionError), case.denoiser.row_cache.one_batch():
        raise ZeroDivisionError
    assert {name: dict(vars(part)) for name, part in module.named_modules()} == attributes
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_shadow_from_before_is_put_back():
    linear = torch.nn.Linear(2, 2)
    linear.forward = lambda rows: rows + 1
    before = linear.forward
    with RowCache(SharedParts(per_image=(linear,))).one_batch():
        assert linear.forward is not before
    assert linear.forward is before


class Counting(torch.nn.Module):
    """Counts the rows it computes and remembers its outputs weakly."""

    def __init__(self):
        super().__init__()
        self.rows, self.outputs = 0, []

    def forward(self, rows_ND):
        self.rows += len(rows_ND)
        output = rows_ND * 2
        self.outputs.append(weakref.ref(output))
        return output


def test_each_row_is_computed_once_and_freed_with_the_batch():
    module = Counting()
    cache = RowCache(SharedParts(per_image=(module,)))
    rows_ND = drawn(6, 3)
    images, prompts = torch.tensor([0, 0, 1, 1, 2, 0]), torch.zeros(6, dtype=torch.long)
    inputs = rows_ND[images]
    with cache.one_batch():
        for place in (slice(0, 4), slice(3, 6), slice(0, 6)):
            with cache.rows(images[place], prompts[place], L):
                assert torch.equal(module(inputs[place]), inputs[place] * 2)
        assert module.rows == 3
        assert torch.equal(module(inputs), inputs * 2)  # outside of rows: as ever
        assert module.rows == 9
    gc.collect()
    assert all(output() is None for output in module.outputs)


def test_text_projections_compute_plain_rows_once_per_prompt_and_give_gradient_to_tokens_alone():
    projection = Counting()
    cache = RowCache(SharedParts(text_projections=(projection,), insert_at=1))
    texts, tokens = drawn(2, L, 3), drawn(4, S, 3, seed=1).requires_grad_(True)
    prompts = torch.tensor([0, 1, 0, 1])
    joined = torch.cat([texts[prompts][:, :1], tokens, texts[prompts][:, 1:]], dim=1)
    with cache.one_batch():
        for _ in range(2):
            with cache.rows(torch.arange(4), prompts, L):
                projected = projection(joined)
                assert torch.equal(projection(texts[prompts]), texts[prompts] * 2)
    assert projection.rows == 2 + 2 * 4
    assert torch.equal(projected, joined * 2)
    projected.sum().backward()
    assert torch.equal(tokens.grad, torch.full_like(tokens, 2.0))


def test_the_sd15_stem_is_shared_by_image_and_the_sdxl_one_by_pair():
    sd15, sdxl = Case("sd15").denoiser, Case("sdxl").denoiser
    parts = sd15.row_cache._parts
    block = sd15.module.down_blocks[0]
    assert parts.per_image == (block.resnets[0], block.attentions[0].transformer_blocks[0].attn1)
    assert not parts.per_pair
    parts, down = sdxl.row_cache._parts, sdxl.module.down_blocks
    assert not parts.per_image
    assert parts.per_pair == (down[0], down[1].resnets[0], down[1].attentions[0].transformer_blocks[0].attn1)


def test_a_prediction_is_the_same_inside_and_outside_of_an_open_cache():
    case = Case("sd15")
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([1]))
    outside = case.predict(pairs, case.live)
    with case.denoiser.row_cache.one_batch():
        inside = case.predict(pairs, case.live)
    assert torch.allclose(outside, inside, atol=1e-12)
