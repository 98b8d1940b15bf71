import copy
import gc
import types
import weakref
from fractions import Fraction
from unittest import mock

import pytest
import torch
from diffusers.configuration_utils import FrozenDict

from softalign import load_soft_tokens, loaded_tokens, unload_soft_tokens
from softalign.adapters.base_fingerprint import fingerprint_of
from softalign.adapters.files import AdapterConfig, UNetPlacement, read_adapter_config, save_adapter
from softalign.adapters.locating import resolve_adapter
from softalign.artifacts import Adapter
from softalign.errors import CompatibilityError, ConfigError, IntegrityError, MissingInputError
from softalign.method.soft_tokens import SoftTokens
from tests.tiny_unet import make_unet

S, D = 2, 8


def pipe_of(unet):
    return types.SimpleNamespace(unet=unet)


def predict(pipe):
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 4, 4, generator=generator)
    return pipe.unet(latents, torch.tensor(321), torch.randn(2, 6, D, generator=generator)).sample


def write(folder, unet, **changes):
    config = AdapterConfig(
        **{
            "base_model": "tiny/base",
            "base_model_revision": "",
            "family": "sd15",
            "placement": UNetPlacement(blocks=("down", "mid"), position="after_bos"),
            "num_soft_tokens": S,
            "num_banks": 2,
            "width": D,
            "timestep_bins": 10,
            "has_ema": True,
            "objective": "agsm",
            "num_steps": 1,
            "samples_seen": 4,
            "dataset_digest": "0" * 64,
            "library_version": "0.1.0",
            "weights_sha256": "",
            "base_fingerprint": fingerprint_of(unet),
            **changes,
        }
    )
    torch.manual_seed(11)
    live, ema = (SoftTokens(torch.randn(2, S, D), torch.randn(10, D)) for _ in range(2))
    save_adapter(folder, config, live, ema)
    return live, ema


@pytest.fixture
def pipe():
    return pipe_of(make_unet())


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "adapter", make_unet())
    return tmp_path / "adapter"


def test_without_effect_the_output_is_diffusers_own_bit_for_bit(pipe, folder):
    base = predict(pipe)
    handle = load_soft_tokens(pipe, folder)
    trained = predict(pipe)
    assert (trained - base).abs().max() > 1e-4
    handle.set_scale(0.0)
    assert torch.equal(predict(pipe), base)
    handle.set_scale(1.0)
    assert torch.equal(predict(pipe), trained)
    handle.disable()
    assert not handle.is_enabled
    assert torch.equal(predict(pipe), base)
    handle.enable()
    assert torch.equal(predict(pipe), trained)
    handle.unload()
    assert torch.equal(predict(pipe), base)
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


def test_scale_lies_between_base_and_adapter(pipe, folder):
    base = predict(pipe)
    with load_soft_tokens(pipe, folder, scale=0.3) as handle:
        assert handle.scale == 0.3
        weak = (predict(pipe) - base).norm()
        handle.set_scale(1.0)
        assert 0 < weak < (predict(pipe) - base).norm()
    assert torch.equal(predict(pipe), base)


def test_the_handle_can_be_used_up_only_once(pipe, folder):
    handle = load_soft_tokens(pipe, folder)
    handle.unload()
    handle.unload()
    with pytest.raises(ConfigError, match="were unloaded"):
        handle.set_scale(0.5)
    load_soft_tokens(pipe, folder).unload()


@pytest.mark.parametrize(
    "scale", [-1.0, 1000.1, float("inf"), float("nan"), "0.5", None, True, 10**400, Fraction(10**400)]
)
def test_an_impossible_scale_is_refused(pipe, folder, scale):
    with pytest.raises(ConfigError, match="out of range"):
        load_soft_tokens(pipe, folder, scale=scale)
    handle = load_soft_tokens(pipe, folder)
    with pytest.raises(ConfigError, match="out of range"):
        handle.set_scale(scale)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("unconditional_bank", value) for value in ("neg", "", None, True, ["positive"])),
        *(("divide_by_guidance", value) for value in ("no", 1, None)),
    ],
)
def test_an_option_of_another_value_is_refused_by_name(pipe, folder, option, value):
    with pytest.raises(ConfigError) as refused:
        load_soft_tokens(pipe, folder, **{option: value})
    assert (refused.value.where, refused.value.found) == (option, repr(value))
    assert loaded_tokens(pipe) == ()


def test_averaged_tokens_on_request(pipe, folder):
    with load_soft_tokens(pipe, folder):
        live = predict(pipe)
    with load_soft_tokens(pipe, folder, use_ema=True):
        assert not torch.equal(predict(pipe), live)


def test_a_saved_and_loaded_adapter_predicts_what_the_module_in_memory_does(pipe, tmp_path):
    from softalign.backbones.injection import CrossAttentionInjection
    from softalign.backbones.unet import injection_sites

    live, _ = write(tmp_path, pipe.unet)
    injection = CrossAttentionInjection(pipe.unet, injection_sites(pipe.unet, ("down", "mid")), live)
    expected = predict(pipe).detach()
    injection.remove()
    with load_soft_tokens(pipe, tmp_path):
        assert torch.equal(predict(pipe), expected)


def test_another_base_is_refused_unless_forced(folder):
    other = pipe_of(make_unet(seed=1))
    base = predict(other)
    with pytest.raises(CompatibilityError, match="another base model"):
        load_soft_tokens(other, folder)
    assert torch.equal(predict(other), base)
    load_soft_tokens(other, folder, force=True)
    assert not torch.equal(predict(other), base)


def test_force_does_not_help_where_the_widths_differ(folder):
    with pytest.raises(CompatibilityError, match="width 8"):
        load_soft_tokens(pipe_of(make_unet(width=12)), folder, force=True)


def test_half_precision_of_the_same_base_is_accepted(folder):
    pipe = pipe_of(make_unet().to(torch.bfloat16))
    load_soft_tokens(pipe, folder)
    out = pipe.unet(torch.zeros(1, 4, 4, 4).bfloat16(), torch.tensor(3), torch.zeros(1, 6, D).bfloat16()).sample
    assert out.dtype == torch.bfloat16


def test_two_adapters_at_once_are_refused(pipe, folder):
    load_soft_tokens(pipe, folder)
    with pytest.raises(CompatibilityError, match="already"):
        load_soft_tokens(pipe, folder)


def test_a_pipeline_without_a_unet_is_refused(folder):
    with pytest.raises(CompatibilityError, match="SimpleNamespace"):
        load_soft_tokens(types.SimpleNamespace(transformer=torch.nn.Identity()), folder)


def test_sources(pipe, folder, tmp_path):
    import fsspec

    base = predict(pipe)
    with load_soft_tokens(pipe, str(folder)):
        expected = predict(pipe)
    assert not torch.equal(expected, base)
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe_file(f"/adapters/one/{path.name}", path.read_bytes())
    record = mock.create_autospec(Adapter, instance=True, uri="memory://adapters/one")
    for source in ("memory://adapters/one", "memory://adapters/one/", f"file://{folder}", record):
        with load_soft_tokens(pipe, source):
            assert torch.equal(predict(pipe), expected)
    with mock.patch("softalign.registry.pull", return_value=folder) as pull:
        with load_soft_tokens(pipe, "models:/some-name@champion"):
            assert torch.equal(predict(pipe), expected)
    pull.assert_called_once_with("models:/some-name@champion")


def rows_with_bank(pipe, bank, live):
    """Return the prediction of ``predict`` with all rows of one bank, by the training path."""
    from softalign.backbones.injection import CrossAttentionInjection
    from softalign.backbones.unet import injection_sites

    injection = CrossAttentionInjection(pipe.unet, injection_sites(pipe.unet, ("down", "mid")), live)
    with torch.no_grad(), injection.using(live, torch.full((2,), bank)):
        prediction = predict(pipe)
    injection.remove()
    return prediction


def test_the_negative_bank_needs_a_bank_and_a_call_of_known_rows(pipe, tmp_path):
    live, _ = write(tmp_path / "two", pipe.unet)
    with load_soft_tokens(pipe, tmp_path / "two", unconditional_bank="negative") as handle:
        with pytest.raises(CompatibilityError, match="which rows"):
            predict(pipe)
        handle.set_scale(0.0)
        base = predict(pipe)
    assert torch.equal(predict(pipe), base)
    with load_soft_tokens(pipe, tmp_path / "two"):
        assert torch.allclose(predict(pipe), rows_with_bank(pipe_of(make_unet()), 0, live), atol=1e-6)
    one = SoftTokens(torch.randn(1, S, D), torch.randn(10, D))
    config = read_adapter_config(tmp_path / "two")
    save_adapter(tmp_path / "one", config.model_copy(update={"num_banks": 1, "has_ema": False}), one, None)
    with pytest.raises(CompatibilityError, match="no psi-"):
        load_soft_tokens(pipe, tmp_path / "one", unconditional_bank="negative")
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


def test_tokens_whose_handle_is_gone_are_found_and_taken_out(pipe, folder):
    base = predict(pipe)
    assert loaded_tokens(pipe) == ()
    load_soft_tokens(pipe, folder, scale=0.5)
    trained = predict(pipe)
    twin = copy.deepcopy(pipe)
    (handle,) = loaded_tokens(pipe)
    assert (handle.scale, handle.config.family) == (0.5, "sd15")
    assert unload_soft_tokens(pipe) == 1
    assert torch.equal(predict(pipe), base)
    with pytest.raises(ConfigError, match="were unloaded"):
        handle.set_scale(1.0)
    assert torch.equal(predict(twin), trained)
    assert unload_soft_tokens(twin) == 1
    assert torch.equal(predict(twin), base)
    assert not any(module._forward_pre_hooks for module in twin.unet.modules())
    assert unload_soft_tokens(twin) == 0


def test_a_second_load_replaces_on_request_once_it_is_known_to_fit(pipe, folder, tmp_path):
    write(tmp_path / "other", pipe.unet, num_soft_tokens=S)
    first = load_soft_tokens(pipe, folder)
    trained = predict(pipe)
    with pytest.raises(CompatibilityError, match="replace=True"):
        load_soft_tokens(pipe, folder)
    with pytest.raises(MissingInputError):
        load_soft_tokens(pipe, tmp_path / "none", replace=True)
    assert torch.equal(predict(pipe), trained)
    second = load_soft_tokens(pipe, folder, use_ema=True, replace=True)
    assert not torch.equal(predict(pipe), trained)
    assert len(loaded_tokens(pipe)) == 1
    with pytest.raises(ConfigError, match="were unloaded"):
        first.disable()
    second.unload()
    with pytest.raises(ConfigError, match="both"):
        load_soft_tokens(pipe, folder, replace=True, compose=True)


def test_composed_adapters_act_together_each_with_its_strength(pipe, folder):
    base = predict(pipe)
    with load_soft_tokens(pipe, folder, scale=0.5):
        half = predict(pipe)
    first = load_soft_tokens(pipe, folder, scale=0.5)
    second = load_soft_tokens(pipe, folder, scale=0.0, use_ema=True, compose=True)
    assert torch.equal(predict(pipe), half)
    second.set_scale(0.7)
    both = predict(pipe)
    first.disable()
    alone = predict(pipe)
    assert not torch.equal(both, half)
    assert not torch.equal(both, alone)
    first.enable()
    assert torch.equal(predict(pipe), both)
    first.unload()
    assert torch.equal(predict(pipe), alone)
    second.unload()
    assert torch.equal(predict(pipe), base)


def test_an_adapter_composed_with_itself_is_the_adapter_at_twice_the_strength(pipe, folder):
    with load_soft_tokens(pipe, folder, scale=0.7):
        expected = predict(pipe)
    with load_soft_tokens(pipe, folder, scale=0.3), load_soft_tokens(pipe, folder, scale=0.4, compose=True):
        assert torch.allclose(predict(pipe), expected, atol=1e-6)


def test_a_handle_does_not_keep_the_denoiser_alive(folder):
    pipe = pipe_of(make_unet())
    handle, alive = load_soft_tokens(pipe, folder), weakref.ref(pipe.unet)
    predict(pipe)
    del pipe
    gc.collect()
    assert alive() is None
    handle.unload()


def test_a_reference_without_its_scheme_is_recognised():
    with pytest.raises(MissingInputError, match="models:/softalign-shapes@champion"):
        resolve_adapter("softalign-shapes@champion")


@pytest.mark.parametrize("source", ["no/such/folder", "memory://nothing/here"])
def test_no_adapter_there(pipe, source):
    with pytest.raises(MissingInputError, match=r"no adapter folder|adapter_config.json"):
        load_soft_tokens(pipe, source)


def test_a_remote_copy_that_was_cut_off_is_refused(pipe, folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe_file(
            f"/adapters/cut/{path.name}", path.read_bytes()[: -8 if path.suffix == ".safetensors" else None]
        )
    with pytest.raises(IntegrityError, match="not those of its configuration"):
        load_soft_tokens(pipe, "memory://adapters/cut")
    assert resolve_adapter("memory://adapters/cut").is_dir()


class ToyUNet(torch.nn.Module):
    """Has what a U-Net needs to carry soft tokens and compiles in a second."""

    class Block(torch.nn.Module):
        has_cross_attention = True

        def __init__(self):
            super().__init__()
            self.to_v = torch.nn.Linear(D, D)

        def forward(
            self,
            hidden_states,
            encoder_hidden_states=None,
            encoder_attention_mask=None,
            cross_attention_kwargs=None,
        ):
            return hidden_states + self.to_v(encoder_hidden_states).mean(1)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.config = FrozenDict(cross_attention_dim=D)
        self.down_blocks, self.mid_block, self.up_blocks = torch.nn.ModuleList([self.Block()]), self.Block(), ()

    def forward(self, sample, timestep, encoder_hidden_states, cross_attention_kwargs=None):
        if cross_attention_kwargs is not None:  # looks at its options, as diffusers' denoisers do
            cross_attention_kwargs = cross_attention_kwargs.copy()
        given = {"encoder_hidden_states": encoder_hidden_states, "cross_attention_kwargs": cross_attention_kwargs}
        return self.mid_block(self.down_blocks[0](sample + timestep, **given), **given)


@pytest.mark.parametrize("how", ["torch.compile", "module.compile"])
def test_torch_compile_sees_the_tokens_of_a_toy_come_and_go(tmp_path, how, without_shape_checks):
    torch.compiler.reset()
    inputs = torch.zeros(2, D), torch.tensor(500), torch.ones(2, 6, D)
    pipe, num_graphs = pipe_of(ToyUNet()), []

    def counted(graph, _inputs):
        num_graphs.append(1)
        return graph

    write(tmp_path / "one", pipe.unet)
    write(tmp_path / "up", pipe.unet, placement=UNetPlacement(blocks=("mid",), position="after_bos"))
    base, expected = pipe.unet(*inputs), {}
    for name in ("one", "up"):
        with load_soft_tokens(pipe, tmp_path / name):
            expected[name] = pipe.unet(*inputs)
        assert not torch.allclose(expected[name], base, atol=1e-4)
    other = torch.compile(ToyUNet(), backend=counted)
    other(*inputs)
    num_before = len(num_graphs)
    if how == "torch.compile":
        pipe.unet = torch.compile(pipe.unet, backend="eager")
    else:
        pipe.unet.compile(backend="eager")
    assert torch.allclose(pipe.unet(*inputs), base)
    for name in ("one", "up", "one"):
        handle = load_soft_tokens(pipe, tmp_path / name)
        assert torch.allclose(pipe.unet(*inputs), expected[name])
        handle.set_scale(0.0)
        assert torch.allclose(pipe.unet(*inputs), base)
        handle.unload()
        assert torch.allclose(pipe.unet(*inputs), base)
    other(*inputs)
    assert len(num_graphs) == num_before  # a model that has nothing to do with it is not compiled again
    torch.compiler.reset()


@pytest.mark.slow  # torch.compile of a whole U-Net: half a minute each
@pytest.mark.parametrize("order", ["compiled first", "tokens first", "module.compile"])
def test_torch_compile_sees_the_tokens_come_and_go(folder, order, without_shape_checks):
    torch.compiler.reset()
    eager = pipe_of(make_unet())
    base = predict(eager)
    with load_soft_tokens(eager, folder):
        expected = predict(eager)
    pipe = pipe_of(make_unet())
    if order == "tokens first":
        handle = load_soft_tokens(pipe, folder)
        pipe.unet = torch.compile(pipe.unet, backend="eager")
    else:
        if order == "module.compile":
            pipe.unet.compile(backend="eager")
        else:
            pipe.unet = torch.compile(pipe.unet, backend="eager")
        assert torch.allclose(predict(pipe), base, atol=1e-6)
        handle = load_soft_tokens(pipe, folder)
    assert torch.allclose(predict(pipe), expected, atol=1e-6)
    handle.disable()
    assert torch.allclose(predict(pipe), base, atol=1e-6)
    handle.enable()
    assert torch.allclose(predict(pipe), expected, atol=1e-6)
    handle.unload()
    assert torch.allclose(predict(pipe), base, atol=1e-6)
    torch.compiler.reset()


def test_beside_lora(folder):
    peft = pytest.importorskip("peft")
    pipe = pipe_of(make_unet())
    torch.manual_seed(3)
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    with_lora = predict(pipe)
    handle = load_soft_tokens(pipe, folder)
    assert not torch.equal(predict(pipe), with_lora)
    handle.unload()
    assert torch.equal(predict(pipe), with_lora)


def test_beside_offloading(folder):
    from accelerate import cpu_offload

    pipe, offloaded = pipe_of(make_unet()), pipe_of(make_unet())
    cpu_offload(offloaded.unet, execution_device=torch.device("cpu"))
    base = predict(offloaded)
    with load_soft_tokens(pipe, folder), load_soft_tokens(offloaded, folder):
        assert torch.equal(predict(offloaded), predict(pipe))
    assert torch.equal(predict(offloaded), base)
