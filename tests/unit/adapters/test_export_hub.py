"""A folder for the hub: loads as it is, says what is known, and takes nothing else's place."""

import json
import sys
import types

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from softalign import load_soft_tokens
from softalign.adapters.card import model_card
from softalign.adapters.exporting import source as sources
from softalign.adapters.exporting.exporting import export_adapter
from softalign.adapters.exporting.source import Asking, find_source
from softalign.adapters.files import read_adapter_config
from softalign.adapters.locating import resolve_adapter
from softalign.cli import app
from softalign.config.training import TrainConfig
from softalign.errors import ConfigError, IntegrityError, MissingInputError
from softalign.registry import PulledVersion
from tests import tiny_adapter
from tests.fake_registry import FakeRegistry, serving
from tests.sample_records import ENCODED
from tests.tiny_unet import make_unet

SD15, SD3 = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-3-medium-diffusers"


@pytest.fixture
def adapter(tmp_path):
    return tiny_adapter.write_adapter(tmp_path / "adapter", "sd15", make_unet())


def trained(adapter):
    """Add what a registered version has besides."""
    card = model_card(read_adapter_config(adapter), "cats", TrainConfig(), ENCODED)
    scores = "## Evaluation\n\n| tag | adapter |\n| --- | --- |\n| counting | 50.0 |\n\n![](pictures/counting.png)\n"
    (adapter / "README.md").write_text(f"{card}\n{scores}")
    for name in ("metrics.jsonl", "MLmodel", "train_config.json", "pictures/counting.png", "samples/step-1.png"):
        (adapter / name).parent.mkdir(exist_ok=True)
        (adapter / name).write_text(name)
    return adapter


def names_of(done):
    return [entry.path for entry in done.files]


def test_weights_and_configuration_are_copied_and_load_from_the_folder_and_from_the_hub(tmp_path, adapter, monkeypatch):
    done = export_adapter(find_source(str(adapter)), tmp_path / "out", "hub")
    assert names_of(done) == ["README.md", "adapter_config.json", "soft_tokens.safetensors"]
    for name in names_of(done)[1:]:
        assert (tmp_path / "out" / name).read_bytes() == (adapter / name).read_bytes()

    def snapshot(repository, *, revision, allow_patterns, local_files_only):
        assert repository == "ann/tokens" and all((tmp_path / "out" / name).is_file() for name in allow_patterns)
        return str(tmp_path / "out")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    for place in (tmp_path / "out", "ann/tokens"):
        load_soft_tokens(types.SimpleNamespace(unet=make_unet()), place).unload()


def test_a_registered_versions_card_comes_with_what_it_speaks_of(tmp_path, adapter):
    done = export_adapter(find_source(str(trained(adapter))), tmp_path / "out", "hub")
    assert set(names_of(done)) == {
        "README.md",
        "adapter_config.json",
        "metrics.jsonl",
        "pictures/counting.png",
        "soft_tokens.safetensors",
    }
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in ("# cats", "| counting | 50.0 |", "| images | 1890 |", "| images per update | 4 |", "load_soft_tokens"):
        assert fact in card
    assert done.notes[-1].startswith("The base model, tiny, is not on the hub")


@pytest.mark.parametrize(
    ("base", "licence", "expected"),
    [
        (SD15, None, {"license": "creativeml-openrail-m", "base_model": SD15}),
        (SD15, "mit", {"license": "mit", "base_model": SD15}),
        (SD3, None, {"license": "other", "license_name": "stabilityai-ai-community", "base_model": SD3}),
        ("shapes", None, {"license": "apache-2.0", "base_model": None}),
        ("models/mine/sd", None, {"license": None, "base_model": None}),
        ("ann/cats-sd15", None, {"license": None, "base_model": "ann/cats-sd15"}),
    ],
    ids=str,
)
def test_the_hub_reads_what_is_known_and_no_more(tmp_path, adapter, base, licence, expected):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model": base}))
    (adapter / "README.md").write_text("---\nlicense: gone\n---\n\n# cats\n\nAs it was registered long ago.\n")
    done = export_adapter(find_source(str(adapter)), tmp_path / "out", "hub", licence)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    data = card.data.to_dict()
    assert {name: data.get(name) for name in expected} == expected
    assert (data["library_name"], data["pipeline_tag"]) == ("softalign", "text-to-image")
    assert data.get("base_model_relation") == ("adapter" if expected["base_model"] else None)
    assert {"text-to-image", "soft-tokens", "sd15", "agsm"} <= set(data["tags"])
    assert card.text.strip().startswith("# cats") and ("Licence: mit" in card.text) == (licence == "mit")
    assert any("--license" in note for note in done.notes) == (expected["license"] is None)
    assert any("no scores" in note for note in done.notes) and any("no pictures" in note for note in done.notes)


def test_nothing_is_written_over_or_of_a_damaged_adapter(tmp_path, adapter):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="taken"):
        export_adapter(find_source(str(adapter)), taken, "hub")
    assert [path.name for path in taken.iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="licence"):
        export_adapter(find_source(str(adapter)), tmp_path / "out", "peers", "mit")
    weights = adapter / "soft_tokens.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="not those of its configuration"):
        find_source(str(adapter))
    assert not (tmp_path / "out").exists()


def test_a_reference_is_a_folder_then_a_registered_version_then_of_the_hub(tmp_path, adapter, monkeypatch):
    asked = []

    def pull(reference, *, tracking_uri, offline, timeout_s):
        asked.append((reference, tracking_uri, offline, timeout_s))
        return PulledVersion(adapter, "cats", 3, "champion", False)

    monkeypatch.setattr(sources, "pull_version", pull)
    monkeypatch.setattr(sources, "resolve_adapter", lambda *asking: asked.append(asking) or resolve_adapter(adapter))
    monkeypatch.chdir(tmp_path)
    asking = Asking(lambda: "sqlite:///x", True, 2.0)
    for reference in ("cats@champion", "models:/cats/3", "cats/3"):
        assert find_source(reference, asking=asking).name == "cats-3"
        assert asked.pop() == (reference, "sqlite:///x", True, 2.0)
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "3").mkdir()
    for reference, revision in (("cats/3", None), ("ann/tokens", "v1"), ("ann/7", "v1"), ("s3://b/cats", None)):
        find_source(reference, revision)
        assert asked.pop() == (reference, revision)
    with pytest.raises(ConfigError, match="NAME@ALIAS"):
        find_source("models:/cats")


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["softalign", "export", *arguments])
        with pytest.raises(SystemExit) as stop:
            app.main()
        shown = capsys.readouterr()
        return stop.value.code or 0, shown.out, shown.err

    return run


def test_the_command(tmp_path, adapter, command):
    code, out, err = command("adapter", "--to", "out", "--format", "hub", "--license", "mit", "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert (shown["path"], shown["format"], len(shown["files"])) == ("out", "hub", 3)
    code, out, _ = command("adapter", "--to", "other", "--format", "hub")
    assert code == 0 and out.startswith("other\nnote: ")
    assert command("adapter", "--to", "out", "--format", "hub")[0] == 2  # taken
    assert command("adapter", "--to", "third", "--format", "zip")[0] == 2
    code, _, err = command("nobody", "--to", "third", "--format", "hub")
    assert code == 1 and "nobody@champion" in err and not (tmp_path / "third").exists()


def test_the_command_takes_a_registered_version_and_then_the_cache(tmp_path, adapter, command, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    with serving(FakeRegistry("cats", [trained(adapter)])) as uri:
        code, out, err = command("cats@champion", "--to", "out", "--format", "hub", "--tracking-uri", uri, "--json")
    assert code == 0, err
    assert {"pictures/counting.png", "README.md"} <= {file["path"] for file in json.loads(out)["files"]}
    load_soft_tokens(types.SimpleNamespace(unet=make_unet()), tmp_path / "out").unload()
    code, _, err = command("cats/1", "--to", "again", "--format", "comfyui", "--tracking-uri", uri, "--offline")
    assert code == 0 and (tmp_path / "again/models/soft_tokens/cats-1.safetensors").is_file(), err


def test_no_adapter_is_said(tmp_path):
    with pytest.raises(MissingInputError, match="adapter folder"):
        find_source(str(tmp_path / "nothing"))
