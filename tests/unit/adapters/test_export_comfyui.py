"""The exported node, loaded from where it was written, predicts what softalign's own insertion does."""

import importlib.util
import types
from functools import partial

import pytest
import torch

from softalign import load_soft_tokens
from softalign.adapters.base_fingerprint import fingerprint_of
from softalign.adapters.exporting.exporting import export_adapter
from softalign.adapters.exporting.source import find_source
from softalign.adapters.files import MMDiTPlacement, UNetPlacement, save_adapter
from softalign.errors import CompatibilityError
from softalign.method.soft_tokens import SoftTokens
from tests import fake_comfyui, tiny_sd3, tiny_sdxl, tiny_unet
from tests.tiny_adapter import tiny_config
from tests.tiny_families import drawn

ROWS, TOKENS = 3, 2


def unet_place(*blocks):
    return UNetPlacement(blocks=blocks, position="after_bos")


def joint_place(layers, num_layers=2):
    return MMDiTPlacement(num_layers=num_layers, layers=layers, position="append")


CASES = {
    "sd15": ("sd15", tiny_unet.make_deep_unet, unet_place("down")),
    "sd15 mid and up": ("sd15", tiny_unet.make_deep_unet, unet_place("mid", "up")),
    "sdxl": ("sdxl", tiny_sdxl.make_xl_unet, unet_place("down", "mid")),
    "sd3": ("sd3", tiny_sd3.make_transformer, joint_place("first")),
    "sd3 last": ("sd3", tiny_sd3.make_transformer, joint_place("last")),
    "sd35": ("sd35", partial(tiny_sd3.make_transformer, **tiny_sd3.SD35), joint_place("first")),
}


def call_of(family):
    """Return a function that predicts with random texts."""
    make = partial(drawn, dtype=torch.float32)
    if family in ("sd3", "sd35"):
        text, pooled = make(ROWS, 6, tiny_sd3.JOINT_WIDTH, seed=4), make(ROWS, tiny_sd3.POOLED_WIDTH, seed=5)
        return lambda model, x, timesteps: model(x, text, pooled, timesteps).sample
    width = tiny_sdxl.TEXT_WIDTH if family == "sdxl" else tiny_unet.WIDTH
    text = make(ROWS, 6, width, seed=4)
    added = {"text_embeds": make(ROWS, tiny_sdxl.POOLED_WIDTH, seed=5), "time_ids": torch.ones(ROWS, 6)}
    added = added if family == "sdxl" else None
    return lambda model, x, timesteps: model(x, timesteps, text, added_cond_kwargs=added).sample


def write_adapter(folder, family, denoiser, place, *, has_table=True, base_model="tiny"):
    layers = place.layer_axis
    width = denoiser.config.caption_projection_dim if layers else denoiser.config.cross_attention_dim
    banks = drawn(2, *layers, TOKENS, width, seed=1, dtype=torch.float32)
    table = drawn(100, (layers or (1,))[0] * width, seed=2, dtype=torch.float32) if has_table else None
    config = tiny_config(
        base_model=base_model,
        family=family,
        placement=place,
        num_soft_tokens=TOKENS,
        width=width,
        timestep_bins=100 if has_table else 0,
        base_fingerprint=fingerprint_of(denoiser),
    )
    save_adapter(folder, config, SoftTokens(banks, table), None)
    return folder


@pytest.fixture
def comfyui(tmp_path, monkeypatch):
    """Return a function that exports an adapter and loads its node as ComfyUI does."""

    def load(adapter):
        out = tmp_path / "exported"
        export_adapter(find_source(str(adapter)), out, "comfyui")
        fake_comfyui.install(monkeypatch, out / "models")
        spec = importlib.util.spec_from_file_location("node", *(out / "custom_nodes").glob("*/__init__.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        (kind,) = module.NODE_CLASS_MAPPINGS.values()
        return kind

    return load


def patcher_of(denoiser, family):
    return fake_comfyui.ModelPatcher(fake_comfyui.BaseModel(denoiser, call_of(family)))


def put_in(kind, model):
    (file,) = kind.INPUT_TYPES()["required"]["file"][0]
    (patched,) = getattr(kind(), kind.FUNCTION)(model, file)
    return patched


LATENTS, SIGMAS = drawn(ROWS, 4, 4, 4, seed=3, dtype=torch.float32), fake_comfyui.SIGMAS


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_the_node_predicts_as_the_insertion_does(tmp_path, comfyui, case):
    family, make, place = CASES[case]
    denoiser, call = make(), call_of(family)
    adapter = write_adapter(tmp_path / "adapter", family, denoiser, place, has_table=case != "sdxl")
    part = "transformer" if place.layer_axis else "unet"
    base = call(denoiser, LATENTS, SIGMAS * 1000)
    with load_soft_tokens(types.SimpleNamespace(**{part: denoiser}), adapter):
        expected = call(denoiser, LATENTS, SIGMAS * 1000)
    model = patcher_of(denoiser, family)
    patched = put_in(comfyui(adapter), model)
    assert torch.equal(patched.predict(LATENTS, SIGMAS), expected)
    assert float((expected - base).abs().max()) > 1e-3
    assert torch.equal(model.predict(LATENTS, SIGMAS), base)  # the MODEL that went in is as it was


@pytest.mark.parametrize("case", ["sd15", "sd3"])
@torch.no_grad()
def test_what_other_nodes_put_there_still_runs(tmp_path, comfyui, case):
    family, make, place = CASES[case]
    denoiser, seen = make(), []

    def attn2_patch(n, context, value, extra):
        seen.append(context.shape[1])
        return n, context, value

    def block(args, extra):
        seen.append(args["txt"].shape[1])
        return extra["original_block"](args)

    model = patcher_of(denoiser, family)
    model.options = {
        "patches": {"attn2_patch": [attn2_patch]},
        "patches_replace": {"dit": {("double_block", 0): block}},
    }
    kind = comfyui(write_adapter(tmp_path / "adapter", family, denoiser, place))
    once = put_in(kind, model)
    first = once.predict(LATENTS, SIGMAS)
    assert seen and set(seen) == ({6} if case == "sd15" else {6 + TOKENS})
    second = put_in(kind, once).predict(LATENTS, SIGMAS)  # two nodes in a row: both sets of tokens
    assert not torch.equal(first, second)
    assert model.options["patches"] == {"attn2_patch": [attn2_patch]}


@torch.no_grad()
def test_a_model_that_takes_no_tokens_or_is_another_is_refused(tmp_path, comfyui):
    family, make, place = CASES["sd15"]
    kind = comfyui(write_adapter(tmp_path / "adapter", family, make(), place))
    patched = put_in(kind, patcher_of(make(), family))
    patched.model._apply_model = lambda x, *_: x
    with pytest.raises(RuntimeError, match="no block"):
        patched.predict(LATENTS, SIGMAS)
    patched.model.model_sampling.timestep = lambda sigma: 0.25 * (120 * sigma).log()  # as EDM's
    with pytest.raises(ValueError, match=r"end at 1\.19"):
        patched.predict(LATENTS, SIGMAS)
    with pytest.raises(ValueError, match="are for tiny"):
        put_in(kind, patcher_of(tiny_sd3.make_transformer(), "sd3"))
    wider = put_in(kind, patcher_of(tiny_sdxl.make_xl_unet(), "sdxl"))
    with pytest.raises(ValueError, match="width 8 in a model whose text has width 16"):
        wider.predict(LATENTS, SIGMAS)


def test_the_folder_is_told_of_and_the_embedded_model_refused(tmp_path):
    family, make, place = CASES["sd15"]
    done = export_adapter(
        find_source(str(write_adapter(tmp_path / "a b", family, make(), place))), tmp_path / "out", "comfyui"
    )
    names = [entry.path for entry in done.files]
    assert names == [
        "README.md",
        "custom_nodes/softalign_soft_tokens/__init__.py",
        "models/soft_tokens/a-b.safetensors",
    ]
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "not run inside ComfyUI" in readme and "psi- is left out" in readme
    assert any("not run" in note for note in done.notes)
    embedded = write_adapter(tmp_path / "embedded", family, make(), place, base_model="shapes")
    with pytest.raises(CompatibilityError, match="ComfyUI cannot load"):
        export_adapter(find_source(str(embedded)), tmp_path / "none", "comfyui")
    assert not (tmp_path / "none").exists()
