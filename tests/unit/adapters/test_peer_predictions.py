"""Published kinds of checkpoints: converted, they predict what a plain re-statement of their authors' method does."""

import types
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from softalign import load_soft_tokens
from softalign.adapters.checkpoint_facts import CheckpointFacts, blocks_of
from softalign.adapters.convert import convert, unverified
from softalign.adapters.files import load_adapter
from tests import tiny_sd3, tiny_sdxl, tiny_unet
from tests.tiny_families import drawn

NUM_LAYERS, NUM_ROWS = 5, 3
NAMES = {"softrepa": ("dc_tokens.pth", "dc_t_tokens.pth"), "agsm": ("soft_tokens.pth", "soft_t_tokens.pth")}


@dataclass(frozen=True)
class Kind:
    """A checkpoint as its authors publish it; ``blocks`` are the prefixes of the modules that see its tokens."""

    project: str
    family: str
    num_tokens: int = 4
    has_table: bool = True
    blocks: tuple = ("down_blocks", "mid_block")


KINDS = {
    "softrepa-sd15": Kind("softrepa", "sd15", blocks=("down_blocks",)),
    "softrepa-sdxl": Kind("softrepa", "sdxl", num_tokens=8, has_table=False),
    "softrepa-sd3": Kind("softrepa", "sd3"),
    "agsm-sd15": Kind("agsm", "sd15"),
    "agsm-sdxl": Kind("agsm", "sdxl"),
    "agsm-sd3": Kind("agsm", "sd3"),
}
MAKE = {
    "sd15": tiny_unet.make_deep_unet,
    "sdxl": tiny_sdxl.make_xl_unet,
    "sd3": lambda: tiny_sd3.make_transformer(num_layers=NUM_LAYERS + 1),
}
WIDTHS = {"sd15": tiny_unet.WIDTH, "sdxl": tiny_sdxl.TEXT_WIDTH, "sd3": tiny_sd3.STREAM_WIDTH}


def save_files(folder, kind):
    """Write the files as their training scripts do; return psi+ and the table."""
    folder.mkdir()
    banks = (2,) if kind.project == "agsm" else ()
    layers = (NUM_LAYERS,) if kind.family == "sd3" else ()
    width = WIDTHS[kind.family]
    tokens = drawn(*banks, *layers, kind.num_tokens, width, seed=1, dtype=torch.float32)
    table = drawn(100, (NUM_LAYERS if layers else 1) * width, seed=2, dtype=torch.float32)
    tokens_name, table_name = NAMES[kind.project]
    torch.save(nn.Parameter(tokens), folder / tokens_name)
    if kind.has_table:
        torch.save(nn.Embedding.from_pretrained(table), folder / table_name)
    return tokens[0] if banks else tokens, table if kind.has_table else torch.zeros_like(table)


def predict(model, family):
    """Predict at three timesteps; flow matching has floats, up to 1000."""
    make = lambda *shape, seed: drawn(*shape, seed=seed, dtype=torch.float32)  # noqa: E731
    latents = make(NUM_ROWS, 4, 4, 4, seed=3)
    if family == "sd3":
        text, pooled = make(NUM_ROWS, 6, tiny_sd3.JOINT_WIDTH, seed=4), make(NUM_ROWS, tiny_sd3.POOLED_WIDTH, seed=5)
        return model(latents, text, pooled, TIMESTEPS["sd3"]).sample
    text = make(NUM_ROWS, 6, WIDTHS[family], seed=4)
    added = {"text_embeds": make(NUM_ROWS, tiny_sdxl.POOLED_WIDTH, seed=5), "time_ids": torch.ones(NUM_ROWS, 6)}
    return model(latents, TIMESTEPS[family], text, added_cond_kwargs=added if family == "sdxl" else None).sample


TIMESTEPS = {
    "sd15": torch.tensor([0, 321, 999]),
    "sdxl": torch.tensor([0, 321, 999]),
    "sd3": torch.tensor([1000.0, 505.3, 9.9]),
}
ROWS = {"sd15": (0, 32, 99), "sdxl": (0, 32, 99), "sd3": (99, 50, 0)}
"""The table's rows for these timesteps, worked out by hand."""


def restate_unet(unet, kind, psi_SD, table_TD):
    """Cross attention of the chosen blocks reads the text with the tokens behind its first position."""
    tokens_BSD = torch.stack([psi_SD + table_TD[row] for row in ROWS[kind.family]])
    for name, module in unet.named_modules():
        if name.endswith(".attn2") and name.startswith(kind.blocks):

            def attend(hidden, encoder_hidden_states, plain=module.forward, **rest):
                text = encoder_hidden_states
                return plain(hidden, torch.cat([text[:, :1], tokens_BSD, text[:, 1:]], dim=1), **rest)

            module.forward = attend


def restate_sd3(transformer, kind, psi_NSD, table_TD):
    """Each of the first blocks reads its own tokens ahead of the text, and they are gone after it."""
    for layer in range(NUM_LAYERS):
        block = transformer.transformer_blocks[layer]
        offsets = [table_TD[row].view(NUM_LAYERS, -1)[layer] for row in ROWS["sd3"]]
        tokens_BSD = torch.stack([psi_NSD[layer] + offset for offset in offsets])

        def joint(hidden_states, encoder_hidden_states, plain=block.forward, own=tokens_BSD, **rest):
            text, image = plain(hidden_states, torch.cat([own, encoder_hidden_states], dim=1), **rest)
            return text[:, kind.num_tokens :], image

        block.forward = joint


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_published_kind_predicts_as_its_authors_method(tmp_path, kind):
    psi, table = save_files(tmp_path / "peer", kind)
    part = "transformer" if kind.family == "sd3" else "unet"
    model = MAKE[kind.family]()
    model.save_pretrained(tmp_path / "base" / part)
    config = convert(tmp_path / "peer", tmp_path / "out", kind.family, tmp_path / "base")
    assert (config.num_soft_tokens, config.timestep_bins) == (kind.num_tokens, 100 if kind.has_table else 0)
    base = predict(model, kind.family)
    with load_soft_tokens(types.SimpleNamespace(**{part: model}), tmp_path / "out"):
        converted = predict(model, kind.family)
    assert torch.equal(predict(model, kind.family), base)
    (restate_sd3 if kind.family == "sd3" else restate_unet)(model, kind, psi, table)
    expected = predict(model, kind.family)
    assert float((expected - base).abs().max()) > 1e-3
    if kind.family == "sd3":  # the authors put the tokens first: another order of the same sums
        torch.testing.assert_close(converted, expected, rtol=0, atol=1e-6)
    else:
        assert torch.equal(converted, expected)


@pytest.mark.parametrize(
    ("text", "prefixes"),
    [("down,mid", ("down_blocks", "mid_block")), ("mid, up", ("mid_block", "up_blocks")), ("up", ("up_blocks",))],
)
def test_the_blocks_that_are_stated_see_the_tokens(tmp_path, text, prefixes):
    kind = Kind("softrepa", "sd15", blocks=prefixes)
    psi, table = save_files(tmp_path / "peer", kind)
    facts = CheckpointFacts(blocks=blocks_of(text))
    config = convert(tmp_path / "peer", tmp_path / "out", "sd15", save_base(tmp_path), facts)
    assert not any("blocks are assumed" in sentence for sentence in unverified(config))
    model = MAKE["sd15"]()
    with load_soft_tokens(types.SimpleNamespace(unet=model), tmp_path / "out"):
        converted = predict(model, "sd15")
    restate_unet(model, kind, psi, table)
    assert torch.equal(converted, predict(model, "sd15"))


def save_base(folder):
    MAKE["sd15"]().save_pretrained(folder / "base" / "unet")
    return folder / "base"


def test_a_table_that_is_not_used_is_left_out(tmp_path):
    psi, _ = save_files(tmp_path / "peer", Kind("softrepa", "sd15"))
    base = save_base(tmp_path)
    config = convert(tmp_path / "peer", tmp_path / "out", "sd15", base, CheckpointFacts(has_table=False))
    assert (config.timestep_bins, config.converted_from.table) == (0, None)
    assert load_adapter(tmp_path / "out").timestep_offsets is None
    assert any("dc_t_tokens.pth is left out" in sentence for sentence in unverified(config))
    model = MAKE["sd15"]()
    with load_soft_tokens(types.SimpleNamespace(unet=model), tmp_path / "out"):
        converted = predict(model, "sd15")
    restate_unet(model, KINDS["softrepa-sd15"], psi, torch.zeros(100, tiny_unet.WIDTH))
    assert torch.equal(converted, predict(model, "sd15"))
