"""Cross attention that is drawn to the first position: measured as diffusers computes it, and asked for in training."""

import pytest
import torch

from softalign.shapes.pretraining.first_position import lack_of_share, measure_cross_attention

LENGTH = 6


def test_the_measuring_processor_computes_what_diffusers_does(unet, inputs):
    with torch.no_grad():
        plain = unet(*inputs).sample
        measured = measure_cross_attention(unet)
        assert torch.allclose(unet(*inputs).sample, plain, atol=1e-5)
    names = [name for name, _ in unet.named_modules() if name.endswith(".attn2")]
    assert len(measured) == len(names)
    assert all(0 < float(one.share) < 1 for one in measured)


def test_shares_are_those_of_the_weights(unet, inputs):
    measured = measure_cross_attention(unet)
    latents, timesteps, text = inputs
    same = text[:, :1].expand(-1, LENGTH, -1)
    with torch.no_grad():
        unet(latents, timesteps, same)
    assert all(float(one.share) == pytest.approx(1 / LENGTH) for one in measured)


def test_what_is_lacking_falls_in_training_and_is_nothing_above_the_least(unet, inputs):
    measured = measure_cross_attention(unet)
    optimizer = torch.optim.Adam(unet.parameters(), lr=3e-3)
    lacking = []
    for _ in range(25):
        unet(*inputs)
        loss = lack_of_share(measured, 0.6)
        lacking.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert lacking[0] > 0.3
    assert lacking[-1] < 0.5 * lacking[0]
    assert not lack_of_share(measured, 0.0).detach()
