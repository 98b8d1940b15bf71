import json
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file, save_file

from softalign.adapters.base_fingerprint import BaseFingerprint
from softalign.adapters.files import AdapterConfig, UNetPlacement, load_adapter, read_adapter_config, save_adapter
from softalign.adapters.locating import resolved
from softalign.config import TrainConfig
from softalign.errors import CompatibilityError, IntegrityError, MissingInputError
from softalign.method.soft_tokens import SoftTokens
from softalign.store.files import sha256_of_file
from softalign.version import __version__

S, D, BINS = 3, 5, 7


def make_config(**changes):
    fields = {
        "base_model": "some/model",
        "base_model_revision": "",
        "family": "sd15",
        "placement": UNetPlacement(blocks=("down", "mid"), position="after_bos"),
        "num_soft_tokens": S,
        "num_banks": 2,
        "width": D,
        "timestep_bins": BINS,
        "has_ema": True,
        "objective": "agsm",
        "num_steps": 10,
        "samples_seen": 40,
        "dataset_digest": "0" * 64,
        "library_version": "0.1.0",
        "weights_sha256": "",
        "base_fingerprint": BaseFingerprint(class_name="X", architecture="{}", weights=()),
    }
    return AdapterConfig(**{**fields, **changes})


def make_tokens(banks=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return SoftTokens(torch.randn(banks, S, D, generator=generator), torch.randn(BINS, D, generator=generator))


@pytest.fixture
def folder(tmp_path):
    save_adapter(tmp_path, make_config(), make_tokens(seed=0), make_tokens(seed=1))
    return tmp_path


def rewrite(folder, change):
    """Change the tensors of an adapter and sign them anew, so that only the tensors are wrong."""
    tensors = load_file(folder / "soft_tokens.safetensors")
    change(tensors)
    save_file(tensors, folder / "soft_tokens.safetensors")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["weights_sha256"] = sha256_of_file(folder / "soft_tokens.safetensors")
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(("use_ema", "seed"), [(False, 0), (True, 1)])
def test_what_is_saved_is_loaded(folder, use_ema, seed):
    loaded, expected = load_adapter(folder, use_ema=use_ema), make_tokens(seed=seed)
    assert torch.equal(loaded.banks, expected.banks)
    assert torch.equal(loaded.timestep_offsets, expected.timestep_offsets)


def test_the_file_holds_the_contracts_names(folder):
    names = {"soft_tokens.positive", "soft_tokens.negative", "timestep_offsets"}
    assert set(load_file(folder / "soft_tokens.safetensors")) == names | {f"ema.{name}" for name in names}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["type"] == "SOFT_TOKENS"
    assert config["weights_sha256"] == sha256_of_file(folder / "soft_tokens.safetensors")


def test_one_bank_without_average(tmp_path):
    save_adapter(tmp_path, make_config(num_banks=1, has_ema=False), make_tokens(banks=1), None)
    assert set(load_file(tmp_path / "soft_tokens.safetensors")) == {"soft_tokens.positive", "timestep_offsets"}
    assert load_adapter(tmp_path).num_banks == 1
    with pytest.raises(MissingInputError, match="no averaged tokens"):
        load_adapter(tmp_path, use_ema=True)


def test_tokens_without_a_table_have_no_such_tensor(tmp_path):
    live, ema = (SoftTokens(torch.full((2, S, D), value), None) for value in (1.0, 2.0))
    save_adapter(tmp_path, make_config(timestep_bins=0), live, ema)
    names = {"soft_tokens.positive", "soft_tokens.negative"}
    assert set(load_file(tmp_path / "soft_tokens.safetensors")) == names | {f"ema.{name}" for name in names}
    loaded = load_adapter(tmp_path, use_ema=True)
    assert (loaded.timestep_offsets, loaded.num_timestep_bins) == (None, 0)
    assert torch.equal(loaded.banks, ema.banks)
    rewrite(tmp_path, lambda tensors: tensors.update(timestep_offsets=torch.zeros(BINS, D)))
    with pytest.raises(CompatibilityError, match="timestep_offsets is not part of this adapter"):
        load_adapter(tmp_path)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_adapter(tmp_path / name, make_config(), make_tokens(), make_tokens())
    for file in ("soft_tokens.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("soft_tokens.negative"), "soft_tokens.negative is missing"),
        (lambda t: t.pop("ema.timestep_offsets"), "ema.timestep_offsets is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is not part of this adapter"),
        (
            lambda t: t.update({"soft_tokens.positive": torch.zeros(S, D + 1)}),
            r"soft_tokens.positive has shape \(3, 6\)",
        ),
        (lambda t: t.update({"timestep_offsets": torch.zeros(BINS - 1, D)}), "timestep_offsets has shape"),
        (lambda t: t.update({"timestep_offsets": torch.zeros(BINS, D).half()}), "timestep_offsets is torch.float16"),
    ],
)
def test_a_missing_extra_or_misshaped_tensor_is_refused_by_name(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(CompatibilityError, match=message):
        load_adapter(folder)


def test_changed_weights_are_refused(folder):
    path = folder / "soft_tokens.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="not those of its configuration"):
        load_adapter(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_tokens_that_are_not_finite_are_refused_by_name(tmp_path, value):
    live = make_tokens()
    with torch.no_grad():
        live.timestep_offsets[0, 0] = value
    save_adapter(tmp_path, make_config(), live, make_tokens(seed=1))
    with pytest.raises(IntegrityError, match="timestep_offsets"):
        load_adapter(tmp_path)


def test_weights_that_are_no_safetensors_are_refused_even_when_signed(folder):
    (folder / "soft_tokens.safetensors").write_bytes(b"\x80\x04pickle")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["weights_sha256"] = sha256_of_file(folder / "soft_tokens.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(IntegrityError, match="not a safetensors file"):
        load_adapter(folder)


def sign(folder, weights):
    """Let the configuration vouch for other weights, as who makes both can."""
    (folder / "soft_tokens.safetensors").write_bytes(weights)
    path = folder / "adapter_config.json"
    signed = {**json.loads(path.read_text()), "weights_sha256": sha256_of_file(folder / "soft_tokens.safetensors")}
    path.write_text(json.dumps(signed))


def header(text, length=None):
    data = text.encode()
    return (len(data) if length is None else length).to_bytes(8, "little") + data


@pytest.mark.parametrize(
    "weights",
    [
        header("{}", length=1 << 40),
        header("{}", length=(1 << 64) - 1),
        header('{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}'),
        header('{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}'),
        header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}') + bytes(4),
        header('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    ],
    ids=["header of a terabyte", "largest header", "tensor beyond the file", "overflow", "negative offset", "deep"],
)
def test_a_header_that_lies_is_refused_without_taking_memory(folder, weights):
    sign(folder, weights)
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="not a safetensors file"):
            load_adapter(folder)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("field", ["num_soft_tokens", "width", "timestep_bins"])
@pytest.mark.parametrize("value", [10**30, 2**63, 0])
def test_numbers_that_the_tensors_do_not_have_are_refused(folder, field, value):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(CompatibilityError, match="not those its configuration promises"):
        load_adapter(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, '{"num_steps": 1e999}', "9" * 5000])
def test_a_configuration_that_is_made_to_break_readers_is_refused(folder, text):
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(IntegrityError, match="does not describe soft tokens"):
        load_adapter(folder)
    with pytest.raises(IntegrityError, match="no adapter configuration"):
        resolved(TrainConfig(init_from=str(folder)))


@pytest.mark.parametrize("name", ["adapter_config.json", "soft_tokens.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(MissingInputError, match=name):
        load_adapter(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "LORA"),
        ("schema_version", "one"),
        ("num_banks", 3),
        ("family", "sd99"),
        ("max_sequence_length", 10**12),
    ],
)
def test_a_configuration_of_another_kind_is_refused_with_its_field(folder, field, value):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(IntegrityError, match=field):
        read_adapter_config(folder)


@pytest.mark.parametrize(("version", "said"), [(0, "an older"), (2, "a newer")])
def test_an_adapter_of_another_format_is_refused_with_who_wrote_it(folder, version, said):
    path = folder / "adapter_config.json"
    changed = {"schema_version": version, "library_version": "9.1", "a field of that version": 1}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(CompatibilityError, match=f"This adapter is of {said} format") as caught:
        load_adapter(folder)
    assert caught.value.found == f"schema_version {version}, written by softalign 9.1"
    assert caught.value.expected == f"schema_version 1, which softalign {__version__} writes"
    assert caught.value.fix.startswith(
        "update softalign to 9.1 or later" if version > 1 else "install the softalign that wrote it"
    )


def test_a_field_that_only_adds_is_left_out_with_a_warning_and_one_of_the_placement_is_refused(folder, caplog):
    path = folder / "adapter_config.json"
    stored = json.loads(path.read_text()) | {"library_version": "9.1"}
    known = read_adapter_config(folder).model_copy(update={"library_version": "9.1"})
    path.write_text(json.dumps(stored | {"trained_on": "a cluster"}))
    assert read_adapter_config(folder) == known
    assert "by softalign 9.1" in caplog.text and "trained_on" in caplog.text
    path.write_text(json.dumps(stored | {"placement": stored["placement"] | {"every": 2}}))
    with pytest.raises(IntegrityError, match=r"(?s)every.*softalign 9\.1 wrote it.*update softalign"):
        read_adapter_config(folder)
