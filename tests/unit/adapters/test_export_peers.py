"""Adapters in the papers' layout: read back bit for bit, knowing the backbone alone; what would be lost is refused."""

import re

import pytest
import torch

from softalign.adapters.convert import convert
from softalign.adapters.exporting.exporting import export_adapter
from softalign.adapters.exporting.source import find_source
from softalign.adapters.files import (
    MMDiTPlacement,
    UNetPlacement,
    load_adapter,
    read_adapter_config,
    save_adapter,
)
from softalign.errors import CompatibilityError, ConfigError, DataError, IntegrityError
from softalign.method.soft_tokens import SoftTokens
from tests.tiny_adapter import tiny_config
from tests.tiny_families import drawn

WIDTHS = {"sd15": 768, "sdxl": 2048, "sd3": 1536}
TOKENS = 3


def write_adapter(folder, family="sd15", num_banks=2, bins=100, place=None, has_ema=False):
    if place is None:
        place = unet("down", "mid") if family in WIDTHS and family != "sd3" else joint()
    width, layers = WIDTHS.get(family, 1536), place.layer_axis
    banks = drawn(num_banks, *layers, TOKENS, width, seed=1, dtype=torch.float32)
    table = drawn(bins, (layers or (1,))[0] * width, seed=2, dtype=torch.float32) if bins else None
    config = tiny_config(
        base_model="tiny",
        family=family,
        placement=place,
        num_soft_tokens=TOKENS,
        num_banks=num_banks,
        width=width,
        timestep_bins=bins,
        has_ema=has_ema,
        base_fingerprint=None,
    )
    tokens = SoftTokens(banks, table)
    save_adapter(folder, config, tokens, tokens if has_ema else None)
    return folder


def unet(*blocks):
    return UNetPlacement(blocks=blocks, position="after_bos")


def joint(layers="first"):
    return MMDiTPlacement(num_layers=2, layers=layers, position="append")


def export(adapter, to):
    return export_adapter(find_source(str(adapter)), to, "peers")


KINDS = {
    "agsm sd15": {},
    "agsm sdxl": {"family": "sdxl"},
    "agsm sd3": {"family": "sd3", "has_ema": True},
    "softrepa sd15": {"num_banks": 1, "place": unet("mid", "up")},
    "softrepa sdxl without table": {"family": "sdxl", "num_banks": 1, "bins": 0},
    "softrepa sd3": {"family": "sd3", "num_banks": 1},
}


def assert_same(adapter, converted):
    ours, theirs = load_adapter(adapter), load_adapter(converted)
    assert torch.equal(ours.banks, theirs.banks)
    assert (ours.timestep_offsets is None) == (theirs.timestep_offsets is None)
    assert ours.timestep_offsets is None or torch.equal(ours.timestep_offsets, theirs.timestep_offsets)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_convert_reads_it_back_bit_for_bit(tmp_path, monkeypatch, kind):
    adapter = write_adapter(tmp_path / "adapter", **KINDS[kind])
    family, place = KINDS[kind].get("family", "sd15"), read_adapter_config(adapter).placement
    done = export(adapter, tmp_path / "peer")
    project = kind.partition(" ")[0]
    assert [entry.path for entry in done.files] == ["README.md", f"{project}.safetensors"]
    assert any("averaged" in note for note in done.notes) == ("sd3" in kind and project == "agsm")
    config = convert(tmp_path / "peer", tmp_path / "out", family)
    assert (config.placement, config.converted_from.project) == (place, project)
    assert not any("blocks are assumed" in sentence for sentence in config.converted_from.assumed)
    assert_same(adapter, tmp_path / "out")
    # the papers' own files, made by the lines of the README
    (tmp_path / "papers").mkdir()
    (snippet,) = re.findall(r"```python\n(.*?)```", (tmp_path / "peer" / "README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path / "peer")
    exec(snippet, {})
    for path in (tmp_path / "peer").glob("*.pth"):
        path.rename(tmp_path / "papers" / path.name)
    convert(tmp_path / "papers", tmp_path / "theirs", family)
    assert_same(adapter, tmp_path / "theirs")


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"family": "sd21", "place": unet("down", "mid")}, "neither project has code for sd21"),
        ({"family": "sd35"}, "neither project has code for sd35"),
        ({"bins": 50}, "has 50 rows"),
        ({"bins": 0}, "AGSM always adds one"),
        ({"place": unet("down")}, "AGSM's are down and mid, these are down"),
        ({"family": "sd3", "place": joint("last")}, "these are the last"),
    ],
    ids=str,
)
def test_what_would_be_lost_is_refused(tmp_path, changes, lost):
    adapter = write_adapter(tmp_path / "adapter", **changes)
    with pytest.raises(CompatibilityError, match=re.escape(lost)):
        export(adapter, tmp_path / "peer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_the_same_adapter_gives_the_same_bytes(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", has_ema=True)
    for layout in ("peers", "comfyui", "hub"):
        first, second = (
            export_adapter(find_source(str(adapter)), tmp_path / layout / name, layout).files for name in ("a", "b")
        )
        assert first == second


def test_other_files_of_these_names_are_refused(tmp_path):
    export(write_adapter(tmp_path / "adapter"), tmp_path / "peer")
    with pytest.raises(CompatibilityError, match="use --backbone sd15"):
        convert(tmp_path / "peer", tmp_path / "out", "sdxl")
    (tmp_path / "peer" / "soft_tokens.pth").write_bytes(b"")
    with pytest.raises(ConfigError, match="twice"):
        convert(tmp_path / "peer", tmp_path / "out", "sd15")
    (tmp_path / "peer" / "soft_tokens.pth").unlink()
    path = tmp_path / "peer" / "agsm.safetensors"
    path.write_bytes((tmp_path / "adapter" / "soft_tokens.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"soft_tokens\.positive"):
        convert(tmp_path / "peer", tmp_path / "out", "sd15")
    path.write_bytes(b"torn")
    with pytest.raises(IntegrityError):
        convert(tmp_path / "peer", tmp_path / "out", "sd15")
    assert not (tmp_path / "out").exists()
