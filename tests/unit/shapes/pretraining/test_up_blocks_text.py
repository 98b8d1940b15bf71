"""Up blocks that read the empty text for some images: those images alone, those blocks alone, as often as asked for."""

import pytest
import torch
from torch.testing import assert_close

from softalign.shapes.pretraining.data import TrainingPool, tokenize
from softalign.shapes.pretraining.networks import build_denoiser, build_text_encoder
from softalign.shapes.pretraining.recipe import DenoiserConfig, PretrainConfig, TextEncoderConfig
from softalign.shapes.pretraining.train_denoiser import velocity_loss
from softalign.shapes.pretraining.up_blocks_text import UpBlocksText
from softalign.shapes.tokenizer import build_tokenizer

WIDTH, LENGTH = 32, 6
SOME = torch.tensor([True, False])


@pytest.fixture
def empty():
    return torch.randn(LENGTH, WIDTH, generator=torch.Generator().manual_seed(2))


def states_of_texts(unet, inputs, change=None):
    """Return the prediction and the text states that each cross attention read, by its name."""
    read, hooks = {}, []
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            keep = lambda _module, _args, kwargs, name=name: read.update({name: kwargs["encoder_hidden_states"]})  # noqa: E731
            hooks.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    if change:
        change()
    with torch.no_grad():
        prediction = unet(*inputs).sample
    for hook in hooks:
        hook.remove()
    return prediction, read


def test_up_blocks_of_some_images_read_the_empty_text(unet, inputs, empty):
    text, up_blocks = inputs[2], UpBlocksText(unet)
    plain, _ = states_of_texts(unet, inputs)
    prediction, read = states_of_texts(unet, inputs, lambda: up_blocks.drop(SOME, text, empty))
    for name, states in read.items():
        assert_close(states[0], empty if name.startswith("up_blocks") else text[0])
        assert_close(states[1], text[1])
    assert {name.split(".")[0] for name in read} == {"down_blocks", "mid_block", "up_blocks"}
    assert_close(prediction[1], plain[1])
    assert not torch.allclose(prediction[0], plain[0], atol=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_as_many_images_as_asked_for(dropout):
    config = PretrainConfig(
        text_encoder=TextEncoderConfig(width=WIDTH, num_layers=1),
        denoiser=DenoiserConfig(widths=(32, 32), batch_size=256, up_blocks_text_dropout=dropout),
    )
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(config.text_encoder, tokenizer).requires_grad_(False)
    unet = build_denoiser(config.denoiser, WIDTH)
    captions = tokenize(tokenizer, ["a photo of a red circle"] * config.captions.captions_per_scene)
    pool = TrainingPool(latents=torch.randn(1, 16, 4, 4), token_ids=captions[None], layouts=torch.zeros(1))
    batch = velocity_loss(unet, text_encoder, pool, tokenizer, config)
    *_, is_dropped = drawn = batch.draw(3)
    assert len(drawn) == (5 if dropout else 4)
    if dropout:
        assert is_dropped.float().mean().item() == pytest.approx(dropout, abs=0.1)
    assert_close(batch.draw(3), drawn)
    with torch.no_grad():
        plain, dropped = batch.loss(*drawn[:4]), batch(3)
    assert torch.isfinite(dropped)
    assert (dropped != plain) == bool(dropout)
