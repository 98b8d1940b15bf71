import pytest
import torch

from softalign.method.soft_tokens import (
    SoftTokens,
    TokensShape,
    soft_tokens_from_bos,
    soft_tokens_from_normal,
    soft_tokens_from_padding,
    timestep_bins,
    update_ema,
)


def make(num_banks=2, num_timestep_bins=100, width=6, seed=0):
    return soft_tokens_from_normal(
        width,
        TokensShape(num_banks, 3, num_timestep_bins),
        std=0.02,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize(
    ("timestep", "expected"), [(0, 0), (9, 0), (10, 1), (999, 99), (1000, 99), (9.99, 0), (10.0, 1), (1000.0, 99)]
)
def test_each_timestep_uses_its_row_and_1000_the_last(timestep, expected):
    assert timestep_bins(torch.tensor([timestep]), 100).tolist() == [expected]


@pytest.mark.parametrize("num_timestep_bins", [1, 7, 100, 1000])
def test_bins_cover_the_table_evenly_for_any_number_of_bins(num_timestep_bins):
    counts = torch.bincount(timestep_bins(torch.arange(1000), num_timestep_bins), minlength=num_timestep_bins)
    assert counts.numel() == num_timestep_bins
    assert counts.max() - counts.min() <= 1


def test_integer_and_float_timesteps_agree():
    steps = torch.arange(1001)
    for num_timestep_bins in (3, 100, 1000):
        assert torch.equal(timestep_bins(steps, num_timestep_bins), timestep_bins(steps.float(), num_timestep_bins))


def test_a_row_is_its_bank_plus_its_table_row():
    tokens = make()
    out = tokens(torch.tensor([0, 555, 1000]), torch.tensor([0, 1, 0]))
    assert out.shape == (3, 3, 6)
    for row, (bank, bin_) in enumerate([(0, 0), (1, 55), (0, 99)]):
        assert torch.equal(out[row], tokens.banks[bank] + tokens.timestep_offsets[bin_])


@pytest.mark.parametrize("layers", [(), (5,)])
def test_without_a_table_a_row_is_its_bank(layers):
    banks = torch.randn(2, *layers, 3, 6, generator=torch.Generator().manual_seed(0))
    tokens = SoftTokens(banks.clone(), None)
    assert torch.equal(tokens(torch.tensor([0, 1000]), torch.tensor([1, 0])), banks[[1, 0]])
    assert (tokens.num_timestep_bins, set(tokens.state_dict())) == (0, {"banks"})
    update_ema(tokens, SoftTokens(torch.zeros_like(banks), None), decay=0.5)
    assert torch.equal(tokens.banks, banks / 2)


def test_gradient_reaches_only_the_banks_and_rows_in_use():
    tokens = make()
    tokens(torch.tensor([555]), torch.tensor([1])).sum().backward()
    assert tokens.banks.grad[0].abs().sum() == 0
    assert torch.equal(tokens.banks.grad[1], torch.ones(3, 6))
    used = tokens.timestep_offsets.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert used == [55]


def test_bos_initialisation_copies_the_bos_state_and_draws_the_table():
    bos = torch.linspace(-1, 1, 6)
    generator = torch.Generator().manual_seed(0)
    tokens = soft_tokens_from_bos(bos, TokensShape(2, 3, 1000), std=0.02, generator=generator)
    assert torch.equal(tokens.banks, bos.expand(2, 3, 6))
    assert float(tokens.timestep_offsets.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert tokens.banks.dtype == torch.float32
    assert (tokens.num_banks, tokens.num_soft_tokens, tokens.width, tokens.num_timestep_bins) == (2, 3, 6, 1000)


def test_initialisation_depends_on_the_generator_alone():
    torch.manual_seed(1)
    first = make(seed=3)
    torch.manual_seed(2)
    assert torch.equal(first.banks, make(seed=3).banks)
    assert not torch.equal(first.banks, make(seed=4).banks)
    assert not torch.equal(first.banks[0], first.banks[1])


def test_the_average_follows_the_live_tokens():
    live, ema = make(seed=0), make(seed=1)
    before = ema.banks.detach().clone()
    update_ema(ema, live, 0.9)
    assert torch.allclose(ema.banks, 0.9 * before + 0.1 * live.banks)


def test_the_average_of_constant_tokens_never_moves():
    live, ema = make(), make()
    for _ in range(50):
        update_ema(ema, live, 0.999)
    assert torch.equal(ema.banks, live.banks)
    assert torch.equal(ema.timestep_offsets, live.timestep_offsets)


def test_decay_zero_is_the_live_module():
    live, ema = make(seed=0), make(seed=1)
    update_ema(ema, live, 0.0)
    assert torch.equal(ema.timestep_offsets, live.timestep_offsets)


def test_tokens_are_the_only_state():
    assert set(SoftTokens(torch.zeros(1, 2, 3), torch.zeros(4, 3)).state_dict()) == {"banks", "timestep_offsets"}


def test_tokens_that_start_as_padding_have_its_direction_and_no_offsets():
    states = torch.randn(4, 8, generator=torch.Generator().manual_seed(3)) * torch.tensor([[0.1], [1.0], [4.0], [9.0]])
    tokens = soft_tokens_from_padding(states, TokensShape(2, 3, 100, 4), std=0.05)
    assert tokens.banks.shape == (2, 4, 3, 8)
    torch.testing.assert_close(tokens.banks.square().mean(-1).sqrt(), torch.full((2, 4, 3), 0.05))
    turned = torch.nn.functional.cosine_similarity(tokens.banks, states[:, None].expand(2, 4, 3, 8), dim=-1)
    torch.testing.assert_close(turned, torch.ones(2, 4, 3))
    assert torch.equal(tokens.timestep_offsets, torch.zeros(100, 4 * 8))
