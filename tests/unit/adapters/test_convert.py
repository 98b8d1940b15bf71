"""Files as SoftREPA and AGSM save them, good, wrong and hostile."""

import json
import os
import pathlib
import sys
import types

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import nn

from softalign import load_soft_tokens
from softalign.adapters.checkpoint_facts import CheckpointFacts, blocks_of
from softalign.adapters.convert import convert, unverified
from softalign.adapters.files import load_adapter, read_adapter_config
from softalign.cli import app
from softalign.errors import CompatibilityError, ConfigError, DataError, MissingInputError, SoftAlignError
from softalign.store.files import sha256_of_file
from tests.tiny_unet import WIDTH, make_unet

S, N = 4, 5
NAMES = {"softrepa": ("dc_tokens.pth", "dc_t_tokens.pth"), "agsm": ("soft_tokens.pth", "soft_t_tokens.pth")}
JOINT_WIDTH = 12


def words(value):
    """Return what names a case: its words; tensors are drawn anew in every process."""
    return value if isinstance(value, str) else type(value).__name__


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def save_peer(
    folder, project="agsm", family="sd15", width=768, table_width=None, dtype=torch.float32, num_tokens=S, **damage
):
    """Write the two files as the project's training script does; return tokens and table."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = (N,) if family == "sd3" else ()
    banks = (2,) if project == "agsm" else ()
    tokens = nn.Parameter(draw(*banks, *layers, num_tokens, width, dtype=dtype))
    table = nn.Embedding(100, (N if layers else 1) * (table_width or width), dtype=dtype)
    tokens_name, table_name = NAMES[project]
    torch.save(damage.get("tokens", tokens), folder / tokens_name)
    saved_table = damage.get("table", table)
    if saved_table is not None:
        torch.save(saved_table, folder / table_name)
    return tokens.detach().float(), table.weight.detach().float()


@pytest.fixture
def unet_folder(tmp_path):
    make_unet(seed=3).save_pretrained(tmp_path / "base" / "unet")
    return tmp_path / "base"


@pytest.fixture
def sd3_folder(tmp_path):
    torch.manual_seed(4)
    transformer = SD3Transformer2DModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        num_layers=N + 1,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=JOINT_WIDTH,
        caption_projection_dim=8,
        pooled_projection_dim=6,
        pos_embed_max_size=8,
    )
    transformer.save_pretrained(tmp_path / "base" / "transformer")
    return tmp_path / "base"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("family", "width"), [("sd15", 768), ("sdxl", 2048), ("sd3", 1536)])
@pytest.mark.parametrize("project", ["softrepa", "agsm"])
def test_values_are_the_files_own(tmp_path, project, family, width, dtype):
    tokens, table = save_peer(tmp_path / "peer", project, family, width, dtype=dtype)
    config = convert(tmp_path / "peer", tmp_path / "out", family)
    loaded = load_adapter(tmp_path / "out")
    expected = tokens if project == "agsm" else tokens[None]
    assert torch.equal(loaded.banks, expected)
    assert torch.equal(loaded.timestep_offsets, table)
    assert config == read_adapter_config(tmp_path / "out")
    assert (config.family, config.objective, config.width, config.num_soft_tokens) == (family, project, width, S)
    assert config.num_banks == (2 if project == "agsm" else 1)
    assert config.placement.layer_axis == ((N,) if family == "sd3" else ())


def test_tokens_and_table_of_sd3_are_those_of_the_papers(tmp_path):
    """61,440 + 768,000 per bank's tokens and table (AGSM: two banks of 30,720)."""
    tokens, table = save_peer(tmp_path / "peer", "agsm", "sd3", 1536)
    assert (tokens.numel(), table.numel()) == (61_440, 768_000)
    convert(tmp_path / "peer", tmp_path / "out", "sd3")


def test_the_files_digests_and_what_is_not_known_are_recorded(tmp_path):
    save_peer(tmp_path / "peer", "softrepa")
    config = convert(tmp_path / "peer", tmp_path / "out", "sd15")
    files = config.converted_from
    assert files.project == "softrepa"
    for entry in (files.tokens, files.table):
        assert entry.sha256 == sha256_of_file(tmp_path / "peer" / entry.path)
    assert config.base_fingerprint is None
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(fact in card for fact in (files.tokens.sha256, files.table.sha256, "force=True", *unverified(config)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "peer"]


def test_the_base_model_is_recorded(tmp_path, unet_folder):
    save_peer(tmp_path / "peer", width=WIDTH)
    assert convert(tmp_path / "peer", tmp_path / "out", "sd15", unet_folder).base_fingerprint is not None
    load_soft_tokens(types.SimpleNamespace(unet=make_unet(seed=3)), tmp_path / "out").unload()
    with pytest.raises(CompatibilityError, match="another base model"):
        load_soft_tokens(types.SimpleNamespace(unet=make_unet(seed=4)), tmp_path / "out")


@pytest.mark.parametrize("project", ["softrepa", "agsm"])
@pytest.mark.parametrize(("family", "width"), [("sd15", 768), ("sdxl", 2048), ("sd3", 1536)])
def test_without_a_table_there_is_no_offset(tmp_path, project, family, width):
    tokens, _ = save_peer(tmp_path / "peer", project, family, width)
    table_name = NAMES[project][1]
    (tmp_path / "peer" / table_name).unlink()
    config = convert(tmp_path / "peer", tmp_path / "out", family)
    assert (config.timestep_bins, config.converted_from.table) == (0, None)
    loaded = load_adapter(tmp_path / "out")
    assert loaded.timestep_offsets is None
    drawn = loaded(torch.tensor([0, 999]), torch.tensor([0, 0]))
    psi = tokens[0] if project == "agsm" else tokens
    assert torch.equal(drawn, torch.stack([psi, psi]))
    assert any(f"{table_name} is not there" in sentence for sentence in unverified(config))
    assert "no timestep table" in (tmp_path / "out" / "README.md").read_text()


def test_a_table_that_must_be_there_is(tmp_path):
    save_peer(tmp_path / "peer", "softrepa")
    convert(tmp_path / "peer", tmp_path / "with", "sd15", None, CheckpointFacts(has_table=True))
    assert load_adapter(tmp_path / "with").num_timestep_bins == 100
    (tmp_path / "peer" / "dc_t_tokens.pth").unlink()
    refuse(tmp_path, MissingInputError, "dc_t_tokens.pth", "sd15", None, CheckpointFacts(has_table=True))


@pytest.mark.parametrize(
    ("saved", "blocks"),
    [
        ({"project": "softrepa"}, ("down",)),
        ({"project": "softrepa", "family": "sdxl", "width": 2048, "num_tokens": 8, "table": None}, ("down", "mid")),
        ({"project": "agsm"}, ("down", "mid")),
        ({"project": "agsm", "family": "sdxl", "width": 2048}, ("down", "mid")),
    ],
    ids=words,
)
def test_the_published_blocks_are_assumed_and_said_so(tmp_path, saved, blocks):
    save_peer(tmp_path / "peer", **saved)
    config = convert(tmp_path / "peer", tmp_path / "out", saved.get("family", "sd15"))
    assert config.placement.blocks == blocks
    said = " ".join(unverified(config))
    assert f"The {' and '.join(blocks)} blocks are assumed" in said
    assert "check --blocks" not in said
    assert config.converted_from.assumed == unverified(config)[:-1]


def test_a_checkpoint_unlike_the_published_one_is_said_to_be(tmp_path):
    save_peer(tmp_path / "peer", "softrepa", "sdxl", 2048)
    said = unverified(convert(tmp_path / "peer", tmp_path / "out", "sdxl"))
    assert any("8 tokens without a timestep table" in one and "4 tokens with" in one for one in said)
    save_peer(tmp_path / "sd3", "agsm", "sd3", 1536, tokens=nn.Parameter(draw(2, N, 3, 1536)))
    said = unverified(convert(tmp_path / "sd3", tmp_path / "other", "sd3"))
    assert any("check --layers" in sentence for sentence in said)
    stated = convert(tmp_path / "peer", tmp_path / "stated", "sdxl", None, CheckpointFacts(blocks=("mid",)))
    assert stated.placement.blocks == ("mid",)
    assert not any("check" in sentence for sentence in unverified(stated))


@pytest.mark.parametrize("shape", [(S, 768), (1, S, 768)])
def test_one_bank_of_agsm_is_stated(tmp_path, shape):
    tokens = nn.Parameter(draw(*shape))
    save_peer(tmp_path / "peer", "agsm", tokens=tokens)
    refuse(tmp_path, CompatibilityError, "--banks", "sd15")
    config = convert(tmp_path / "peer", tmp_path / "out", "sd15", None, CheckpointFacts(num_banks=1))
    assert config.num_banks == 1
    assert torch.equal(load_adapter(tmp_path / "out").banks, tokens.detach().view(1, S, 768))


def test_two_banks_of_softrepa_are_stated(tmp_path):
    save_peer(tmp_path / "peer", "softrepa", tokens=nn.Parameter(draw(2, S, 768)))
    refuse(tmp_path, CompatibilityError, "--banks", "sd15")
    assert convert(tmp_path / "peer", tmp_path / "out", "sd15", None, CheckpointFacts(num_banks=2)).num_banks == 2


@pytest.mark.parametrize(
    ("family", "facts", "message"),
    [
        ("sd3", CheckpointFacts(blocks=("down",)), "--blocks"),
        ("sd15", CheckpointFacts(layers="last"), "--layers"),
        ("sdxl", CheckpointFacts(num_banks=3), "1 or 2"),
    ],
    ids=words,
)
def test_facts_of_another_kind_of_checkpoint_are_refused(tmp_path, family, facts, message):
    save_peer(tmp_path / "peer")
    refuse(tmp_path, ConfigError, message, family, None, facts)


@pytest.mark.parametrize("text", ["", "down,", "left", "down,down", "down mid"])
def test_blocks_that_cannot_be_read_are_refused(text):
    with pytest.raises(ConfigError, match="--blocks"):
        blocks_of(text)


def test_without_a_base_model_it_loads_by_force_alone(tmp_path):
    save_peer(tmp_path / "peer", "softrepa")
    convert(tmp_path / "peer", tmp_path / "out", "sd15")
    pipe = types.SimpleNamespace(unet=make_unet(width=768))
    with pytest.raises(CompatibilityError, match=r"(?s)without its base model.*--base"):
        load_soft_tokens(pipe, tmp_path / "out")
    load_soft_tokens(pipe, tmp_path / "out", force=True).unload()
    with pytest.raises(CompatibilityError, match="width 768"):
        load_soft_tokens(types.SimpleNamespace(unet=make_unet()), tmp_path / "out", force=True)


@pytest.mark.parametrize("project", ["softrepa", "agsm"])
def test_older_sd3_tokens_go_through_the_context_embedder(tmp_path, sd3_folder, project):
    tokens, table = save_peer(tmp_path / "peer", project, "sd3", JOINT_WIDTH, table_width=8)
    config = convert(tmp_path / "peer", tmp_path / "out", "sd3", sd3_folder)
    embedder = SD3Transformer2DModel.from_pretrained(sd3_folder / "transformer").context_embedder
    loaded = load_adapter(tmp_path / "out")
    expected = embedder(tokens if project == "agsm" else tokens[None]).detach()
    assert torch.equal(loaded.banks, expected)
    assert torch.equal(loaded.timestep_offsets, table)
    assert any("context embedder" in sentence for sentence in unverified(config))


def test_newer_sd3_tokens_do_not(tmp_path, sd3_folder):
    tokens, _ = save_peer(tmp_path / "peer", "agsm", "sd3", 8)
    convert(tmp_path / "peer", tmp_path / "out", "sd3", sd3_folder)
    assert torch.equal(load_adapter(tmp_path / "out").banks, tokens)


@pytest.mark.parametrize("layers", ["first", "last"])
def test_a_converted_sd3_adapter_loads_and_has_its_tokens_at_the_end_that_was_stated(tmp_path, sd3_folder, layers):
    tokens, table = save_peer(tmp_path / "peer", "agsm", "sd3", 8)
    facts = CheckpointFacts(layers=None if layers == "first" else layers)
    config = convert(tmp_path / "peer", tmp_path / "out", "sd3", sd3_folder, facts)
    assert config.placement.layers == layers
    assert ("first 5 joint blocks are assumed" in " ".join(unverified(config))) == (layers == "first")
    transformer = SD3Transformer2DModel.from_pretrained(sd3_folder / "transformer")
    seen = []
    hook = lambda _module, _args, kwargs, _output: seen.append(kwargs["encoder_hidden_states"])  # noqa: E731
    with load_soft_tokens(types.SimpleNamespace(transformer=transformer), tmp_path / "out"):
        for block in transformer.transformer_blocks:
            block.register_forward_hook(hook, with_kwargs=True)
        transformer(draw(1, 4, 4, 4), draw(1, 3, JOINT_WIDTH), draw(1, 6), torch.tensor([505.0]))
    first = 0 if layers == "first" else 1
    assert [text.shape[1] for text in seen] == [3 + S if first <= place < first + N else 3 for place in range(N + 1)]
    for layer in range(N):
        assert torch.equal(seen[first + layer][0, 3:], tokens[0, layer] + table[50].view(N, 8)[layer])


def test_tokens_of_sd3_are_not_for_sd35(tmp_path, sd3_folder):
    save_peer(tmp_path / "peer", "agsm", "sd3", 8)
    path = sd3_folder / "transformer" / "config.json"
    path.write_text(path.read_text().replace('"qk_norm": null', '"qk_norm": "rms_norm"'))
    refuse(tmp_path, CompatibilityError, "qk_norm rms_norm", "sd3", sd3_folder)


def refuse(tmp_path, kind, message, *arguments):
    with pytest.raises(kind, match=message):
        convert(tmp_path / "peer", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_older_sd3_tokens_without_a_base_are_refused(tmp_path):
    save_peer(tmp_path / "peer", "softrepa", "sd3", 4096, table_width=1536)
    refuse(tmp_path, CompatibilityError, "--base", "sd3")


@pytest.mark.parametrize(
    ("saved", "family", "message"),
    [
        ({"width": 2048}, "sd15", "width 2048"),
        ({"width": 768}, "sd3", "layers, tokens, width"),
        ({"family": "sd3", "width": 1536}, "sd15", r"\(2, 5, 4, 1536\)"),
        ({"project": "softrepa", "family": "sd3", "width": 768}, "sd15", r"\(5, 4, 768\)"),
        ({"tokens": nn.Parameter(draw(3, S, 768))}, "sd15", r"\(3, 4, 768\)"),
        ({"tokens": nn.Parameter(draw(2, 0, 768))}, "sd15", r"\(2, 0, 768\)"),
        ({"table": nn.Embedding(50, 768)}, "sd15", r"\(50, 768\)"),
        ({"table_width": 767}, "sd15", r"\(100, 767\)"),
        ({"family": "sd3", "width": 1536, "table": nn.Embedding(100, 4 * 1536)}, "sd3", r"\(100, 7680\)"),
    ],
    ids=words,
)
def test_shapes_that_do_not_fit_are_refused(tmp_path, saved, family, message):
    save_peer(tmp_path / "peer", **saved)
    refuse(tmp_path, CompatibilityError, message, family)


def test_more_layers_than_the_base_has_are_refused(tmp_path, sd3_folder):
    many = {"tokens": nn.Parameter(draw(2, N + 2, S, 8)), "table": nn.Embedding(100, (N + 2) * 8)}
    save_peer(tmp_path / "peer", "agsm", "sd3", 8, **many)
    refuse(tmp_path, CompatibilityError, "7 layers", "sd3", sd3_folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"tokens": [torch.zeros(2, S, 768)]}, "holds no tensor"),
        ({"tokens": {"soft_tokens": torch.zeros(2, S, 768)}}, "holds no tensor"),
        ({"tokens": nn.Embedding(100, 768)}, "torch.nn.modules.sparse.Embedding"),
        ({"tokens": torch.zeros(2, S, 768).to_sparse()}, "holds no tensor"),
        ({"tokens": torch.zeros(2, S, 768, dtype=torch.float64)}, "torch.float64"),
        ({"tokens": torch.zeros(2, S, 768, dtype=torch.int64)}, "torch.int64"),
        ({"tokens": torch.full((2, S, 768), torch.nan)}, "not finite"),
        ({"table": torch.zeros(100, 768)}, "not an embedding"),
        ({"table": nn.Embedding(100, 768, max_norm=1.0)}, "rescales"),
        ({"table": nn.Linear(768, 100)}, "Linear"),
        ({"table": nn.Embedding(100, 768).half().state_dict()}, "not an embedding"),
        ({"table": nn.Embedding.from_pretrained(torch.full((100, 768), torch.inf))}, "not finite"),
    ],
    ids=words,
)
def test_other_contents_are_refused(tmp_path, damage, message):
    save_peer(tmp_path / "peer", **damage)
    refuse(tmp_path, DataError, message, "sd15")


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def embedding_with(**attributes):
    embedding = nn.Embedding(100, 768)
    embedding.__dict__.update(attributes)
    return embedding


@pytest.mark.parametrize("place", ["tokens", "table", "inside the table", "in its hooks"])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, place):
    ran = tmp_path / "ran"
    hostile = Hostile(f"touch {ran}")
    damage = {
        "tokens": {"tokens": hostile},
        "table": {"table": hostile},
        "inside the table": {"table": embedding_with(extra=hostile)},
        "in its hooks": {"table": embedding_with(_forward_hooks={0: hostile})},
    }[place]
    save_peer(tmp_path / "peer", **damage)
    refuse(tmp_path, DataError, "system", "sd15")
    assert not ran.exists()
    torch.load(tmp_path / "peer" / NAMES["agsm"]["tokens" not in damage], weights_only=False)
    assert ran.exists(), "the file was not hostile, so the test shows nothing"


def test_classes_are_allowed_for_the_one_file_only(tmp_path):
    save_peer(tmp_path / "peer")
    convert(tmp_path / "peer", tmp_path / "out", "sd15")
    assert nn.Embedding not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"PK\x03\x04 torn", b"not a checkpoint"])
@pytest.mark.parametrize("which", [0, 1])
def test_damaged_files_are_refused(tmp_path, content, which):
    save_peer(tmp_path / "peer")
    (tmp_path / "peer" / NAMES["agsm"][which]).write_bytes(content)
    refuse(tmp_path, DataError, "damaged", "sd15")


def test_a_truncated_file_is_refused(tmp_path):
    save_peer(tmp_path / "peer")
    path = tmp_path / "peer" / "soft_t_tokens.pth"
    path.write_bytes(path.read_bytes()[:-1000])
    refuse(tmp_path, DataError, "damaged", "sd15")


def test_folders_without_tokens_or_with_both_projects_are_refused(tmp_path):
    refuse(tmp_path, MissingInputError, "no checkpoint", "sd15")
    save_peer(tmp_path / "peer", "agsm")
    (tmp_path / "peer" / "soft_tokens.pth").unlink()
    refuse(tmp_path, MissingInputError, "soft_tokens.pth", "sd15")
    save_peer(tmp_path / "peer", "agsm")
    save_peer(tmp_path / "peer", "softrepa")
    refuse(tmp_path, ConfigError, "both projects", "sd15")


def test_a_base_of_another_kind_is_refused(tmp_path, unet_folder):
    save_peer(tmp_path / "peer")
    refuse(tmp_path, CompatibilityError, "width 8", "sd15", unet_folder)
    save_peer(tmp_path / "peer", family="sd3", width=1536)
    refuse(tmp_path, MissingInputError, "transformer/", "sd3", unet_folder)
    (unet_folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    refuse(tmp_path, MissingInputError, "cannot be loaded", "sd15", unet_folder)


def test_a_taken_output_folder_is_left_alone(tmp_path):
    save_peer(tmp_path / "peer")
    (tmp_path / "out").mkdir()
    convert(tmp_path / "peer", tmp_path / "out", "sd15")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ConfigError, match="taken"):
        convert(tmp_path / "peer", tmp_path / "out", "sd15")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_nothing_is_left_when_writing_fails(tmp_path, monkeypatch):
    save_peer(tmp_path / "peer")

    def full(*_arguments):
        raise OSError("no space left")

    monkeypatch.setattr(pathlib.Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        convert(tmp_path / "peer", tmp_path / "out", "sd15")
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["peer"]


def test_the_same_files_give_the_same_bytes(tmp_path):
    save_peer(tmp_path / "peer")
    for name in ("a/x", "b/x"):
        convert(tmp_path / "peer", tmp_path / name, "sd15")
    for path in (tmp_path / "a/x").iterdir():
        assert path.read_bytes() == (tmp_path / "b/x" / path.name).read_bytes()


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs ``softalign convert`` here and returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["softalign", "convert", *arguments])
        with pytest.raises(SystemExit) as stop:
            app.main()
        shown = capsys.readouterr()
        return stop.value.code or 0, shown.out, shown.err

    return run


def test_the_command(tmp_path, unet_folder, command):
    save_peer(tmp_path / "peer", "softrepa", width=WIDTH)
    code, out, err = command("peer", "out", "--backbone", "sd15", "--base", "base", "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["has_base_fingerprint"]
    assert shown["adapter"]["converted_from"]["project"] == "softrepa"
    assert shown["adapter"]["weights_sha256"] == read_adapter_config(tmp_path / "out").weights_sha256
    assert len(shown["unverified"]) == 2
    assert shown["adapter"]["placement"]["blocks"] == ["down"]
    assert command("peer", "out", "--backbone", "sd15")[:2] == (2, "")
    code, _, err = command("peer", "other", "--backbone", "sdxl")
    assert (code, (tmp_path / "other").exists()) == (1, False)
    assert "width 2048" in err
    assert command("peer", "other", "--backbone", "sd21")[0] == 2
    assert command("peer", "other", "--backbone", "sd15", "--blocks", "left")[0] == 2


@pytest.mark.parametrize(
    ("options", "placement", "banks", "bins"),
    [
        (["--backbone", "sd15", "--blocks", "mid,down", "--no-table"], {"blocks": ["down", "mid"]}, 1, 0),
        (["--backbone", "sd15", "--banks", "1", "--table"], {"blocks": ["down"]}, 1, 100),
        (["--backbone", "sd3", "--layers", "last"], {"layers": "last", "num_layers": N}, 1, 100),
    ],
    ids=words,
)
def test_the_commands_options_are_the_facts(tmp_path, command, options, placement, banks, bins):
    is_sd3 = "sd3" in options
    save_peer(tmp_path / "peer", "softrepa", "sd3" if is_sd3 else "sd15", 1536 if is_sd3 else 768)
    code, out, _ = command("peer", "out", *options)
    assert (code, "not verified: " in out) == (0, True)
    config = read_adapter_config(tmp_path / "out")
    assert config.placement.model_dump(mode="json", include=set(placement)) == placement
    assert (config.num_banks, config.timestep_bins) == (banks, bins)


def test_errors_are_of_this_library(tmp_path):
    with pytest.raises(SoftAlignError):
        convert(tmp_path / "nowhere", tmp_path / "out", "sdxl")
