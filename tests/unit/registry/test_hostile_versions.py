"""Versions that no adapter is: each is refused with its reason, and nothing of it stays."""

import json
import pickle
import struct

import numpy
import pytest
from safetensors.numpy import save_file

from softalign.errors import IntegrityError
from softalign.registry import pull
from softalign.registry.pulled_cache import is_intact
from softalign.store.files import list_files
from softalign.store.weights_file import require_small_header
from tests.fake_registry import FakeRegistry, serving, write_adapter


@pytest.fixture
def folder(tmp_path):
    return write_adapter(tmp_path / "version", 1.0)


@pytest.fixture
def refused(folder, tmp_path, monkeypatch):
    """Return a function that pulls the folder as a version, expects a refusal, and looks that nothing stayed."""
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))

    def refuse(message, change=None):
        registry = FakeRegistry("hostile", [folder])
        if change is not None:
            entries = json.loads(registry.files_tags[0])
            change(entries)
            registry.files_tags[0] = json.dumps(entries)
        with serving(registry) as uri, pytest.raises(IntegrityError, match=message):
            pull("hostile/1", tmp_path / "out", uri)
        assert not (tmp_path / "out").exists()
        assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
        return registry.asked

    return refuse


@pytest.mark.parametrize(
    "path", ["../evil", "a/../../evil", "/evil", "a\\..\\evil", "C:evil", "C:\\evil", "a//b", "./a", "", "a\x1b[2J"]
)
def test_a_path_that_leaves_the_folder_on_any_system(refused, path):
    asked = refused("outside of its folder|damaged", lambda entries: entries[0].update(path=path))
    assert not [one for one in asked if "artifacts" in one]


@pytest.mark.parametrize("name", ["weights.pkl", "soft_tokens.pt", "initial/model.BIN", "x.ckpt"])
def test_a_pickle_is_not_even_fetched(refused, folder, name):
    (folder / name).write_bytes(b"x")
    assert not [one for one in refused(name) if "artifacts" in one]


@pytest.mark.parametrize("data", [pickle.dumps({"a": 1}), pickle.dumps([1], protocol=2), b"PK\x03\x04rest"])
def test_a_pickle_under_another_name(refused, folder, data):
    (folder / "README.md").write_bytes(data)
    refused("pickle under another name")


def test_a_configuration_of_gigabytes_is_not_fetched(refused):
    def grow(entries):
        next(one for one in entries if one["path"] == "adapter_config.json")["size_bytes"] = 1 << 33

    assert not [one for one in refused("adapter_config.json", grow) if "artifacts" in one]


@pytest.mark.parametrize("length", [(1 << 63), (1 << 20) + 1, 5_000])
def test_a_header_larger_than_the_file_or_than_any_adapters(refused, folder, length):
    data = struct.pack("<Q", length) + b"{}" + bytes(4_000 if length == 5_000 else (2 << 20))
    (folder / "soft_tokens.safetensors").write_bytes(data)
    refused("header of at most")


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf])
def test_numbers_that_are_none(refused, folder, value):
    weights = numpy.zeros((4, 4), numpy.float32)
    weights[3, 3] = value
    save_file({"soft_tokens.positive": weights}, str(folder / "initial" / "soft_tokens.safetensors"))
    refused(r"(?s)not finite.*soft_tokens.positive.*initial")


def test_weights_that_are_no_safetensors_file(refused, folder):
    (folder / "soft_tokens.safetensors").write_bytes(b"\x10" + bytes(7) + b"not json" * 8)
    refused("not a safetensors file")


def test_a_link_in_the_place_of_a_right_file_is_not_intact(folder, tmp_path):
    files = list_files(folder)
    assert is_intact(folder, files)
    away = tmp_path / "away"
    (folder / "MLmodel").rename(away)
    (folder / "MLmodel").symlink_to(away)
    assert not is_intact(folder, files)


def test_the_header_is_looked_at_before_an_adapter_is_read(tmp_path):
    path = tmp_path / "soft_tokens.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40))
    with pytest.raises(IntegrityError, match="header"):
        require_small_header(path, "here")
