"""Images in a folder: they say how they were made, the same request goes on, another one destroys nothing."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softalign.credentials import secrets_of
from softalign.errors import ConfigError
from softalign.sampling import chosen_model, contact_sheet, to_folder
from softalign.sampling.chosen_model import choose_model
from softalign.sampling.image_facts import GeneratedImage, facts_in
from softalign.sampling.sampling import png_bytes
from softalign.sampling.to_folder import GenerationSettings, generate_to_folder
from softalign.version import __version__

SETTINGS = GenerationSettings(
    num_images=2, num_inference_steps=2, guidance_scale=3.0, scale=1.0, seed=5, is_forced=False
)
PROMPTS = ["a photo of a red circle", "ein grüner Kreis, 红色 🙂\nzweite Zeile"]


def generate(tiny, out, settings=SETTINGS, prompts=PROMPTS, **options):
    return generate_to_folder(tiny.adapter, prompts, out, tiny.base, settings, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def drawn(tiny_unet, tmp_path_factory):
    """A finished request with its sheet; tests that write copy it."""
    out = tmp_path_factory.mktemp("drawn") / "out"
    return generate(tiny_unet, out, replace(SETTINGS, has_sheet=True))


def test_every_image_says_how_it_was_made_to_any_tool(drawn, tiny_unet):
    path = drawn.images[-1]
    with Image.open(path) as image:
        said = dict(image.text)
    assert path.name == "prompt-001-1.png"
    expected = {
        "prompt": PROMPTS[1],
        "seed": "5",
        "prompt_index": "1",
        "image_index": "1",
        "num_inference_steps": "2",
        "guidance_scale": "3.0",
        "adapter": "tiny-adapter",
        "adapter_scale": "1.0",
        "base_model": "tiny-base",
        "unconditional_bank": "positive",
        "divide_by_guidance": "False",
        "software": f"softalign {__version__}",
    }
    assert {key: said[key] for key in expected} == expected
    config = json.loads(Path(tiny_unet.adapter, "adapter_config.json").read_text())
    assert said["adapter_sha256"] == config["weights_sha256"]
    facts = json.loads(said["softalign"])
    assert (facts["prompt"], facts["seed"]) == (PROMPTS[1], 5)
    assert said.keys() == {*facts, "softalign"}
    assert b"iTXt" in path.read_bytes() and b"/tmp" not in path.read_bytes()
    assert facts_in(path, GeneratedImage).difference(facts_in(path, GeneratedImage)) == ""


def test_the_facts_change_no_pixel(tiny_unet, drawn):
    picture = pixels(drawn.images[1])
    with Image.open(io.BytesIO(png_bytes(picture))) as plain:
        assert plain.info == {} and np.array_equal(np.asarray(plain), picture)


def test_the_same_request_is_kept_and_goes_on_where_it_was_left(tiny_unet, drawn, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", contents(drawn.images[0].parent)
    settings = replace(SETTINGS, has_sheet=True)
    out.mkdir()
    for name, data in whole.items():
        (out / name).write_bytes(data)
    with monkeypatch.context() as without_model:
        without_model.setattr(to_folder, "load_model", None)
        again = generate(tiny_unet, out, settings)
    assert (again.num_kept, len(again.images), again.sheet) == (8, 8, out / "grid.png")
    for name in ("prompt-000-1.png", "prompt-001-0-base.png", "grid.png"):
        (out / name).unlink()
    assert generate(tiny_unet, out, settings).num_kept == 6
    assert contents(out) == whole


CHANGES = [
    ({"seed": 6}, {}, "seed 5, not 6"),
    ({"num_inference_steps": 1}, {}, "num_inference_steps 2, not 1"),
    ({"guidance_scale": 1.0}, {}, "guidance_scale 3.0, not 1.0"),
    ({"scale": 0.5}, {}, "adapter_scale 1.0, not 0.5"),
    ({"unconditional_bank": "negative"}, {}, "unconditional_bank 'positive', not 'negative'"),
    ({"divide_by_guidance": True}, {}, "divide_by_guidance False, not True"),
    ({}, {"prompts": ["a cat"]}, "prompt 'a photo of a red circle', not 'a cat'"),
]


@pytest.mark.parametrize(("changes", "options", "said"), CHANGES)
def test_images_of_another_request_are_refused_before_a_model_is_loaded(
    tiny_unet, drawn, monkeypatch, changes, options, said
):
    monkeypatch.setattr(to_folder, "load_model", None)
    before = contents(drawn.images[0].parent)
    with pytest.raises(ConfigError, match="nothing was written") as error:
        generate(tiny_unet, drawn.images[0].parent, replace(SETTINGS, **changes), **options)
    assert said in error.value.found
    assert "--overwrite" in error.value.fix
    assert contents(drawn.images[0].parent) == before


@pytest.mark.parametrize("kind", ["text", "cut", "foreign"])
def test_files_that_are_nothing_of_ours_are_refused_before_the_adapter_is_looked_for(
    drawn, tmp_path, kind, monkeypatch
):
    monkeypatch.setattr(to_folder, "choose_model", None)
    data = {
        "text": b"mine",
        "cut": drawn.images[0].read_bytes()[:-20],
        "foreign": png_bytes(np.zeros((8, 8, 3), np.uint8)),
    }[kind]
    (tmp_path / "prompt-001-0.png").write_bytes(data)
    with pytest.raises(ConfigError, match="nothing was written"):
        generate_to_folder("nowhere", PROMPTS, tmp_path, None, SETTINGS)
    assert contents(tmp_path) == {"prompt-001-0.png": data}


def test_overwriting_draws_all_again(tiny_unet, tmp_path):
    one = replace(SETTINGS, num_images=1, guidance_scale=1.0)
    generate(tiny_unet, tmp_path, one, PROMPTS[:1])
    first = contents(tmp_path)
    made = generate(tiny_unet, tmp_path, replace(one, seed=6), PROMPTS[:1], is_overwriting=True)
    assert made.num_kept == 0 and contents(tmp_path) != first
    generate(tiny_unet, tmp_path, one, PROMPTS[:1], is_overwriting=True)
    assert contents(tmp_path) == first


def test_the_sheet_shows_the_base_models_own_images_beside_the_adapters(tiny_unet, drawn, tmp_path):
    alone = generate_to_folder("none", PROMPTS, tmp_path, tiny_unet.base, SETTINGS).images
    of_base = [path for path in drawn.images if path.stem.endswith("-base")]
    assert [path.name for path in drawn.images[:2]] == ["prompt-000-0-base.png", "prompt-000-0.png"]
    for ours, theirs in zip(of_base, alone, strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
    sheet, cell, gap = pixels(drawn.sheet), contact_sheet.CELL_PX, contact_sheet.GAP_PX
    top = gap + 2 * contact_sheet.LINE_PX + gap + contact_sheet.LINE_PX
    for place, path in enumerate(drawn.images[:4]):
        left = gap + place * (cell + gap)
        shown = sheet[top : top + cell, left : left + cell]
        assert np.array_equal(shown[:: cell // 32, :: cell // 32], pixels(path))
    with Image.open(drawn.sheet) as image:
        assert image.text["prompts"] == "\n".join(PROMPTS)
    assert sheet[: top - contact_sheet.LINE_PX].min() < 128  # labels


def test_a_sheet_that_nobody_could_open_is_refused_before_anything_is_drawn(tiny_unet, tmp_path, monkeypatch):
    monkeypatch.setattr(to_folder, "load_model", None)
    monkeypatch.setattr(contact_sheet, "MAX_PIXELS", 10_000)
    with pytest.raises(ConfigError, match="too large to be opened"):
        generate(tiny_unet, tmp_path, replace(SETTINGS, has_sheet=True))
    assert contents(tmp_path) == {}


def test_no_secret_stands_in_an_image(tiny_unet, tmp_path, monkeypatch):
    secrets_of("s3://key:planted-pass@bucket/x", is_noted=True)
    chosen = choose_model(tiny_unet.adapter, tiny_unet.base)
    named = replace(chosen, adapter="https://ann:planted-word@host/adapter?token=planted-token")
    monkeypatch.setattr(to_folder, "choose_model", lambda *_: named)
    made = generate(tiny_unet, tmp_path, replace(SETTINGS, has_sheet=True), ["planted-pass and a circle"])
    for path in (*made.images, made.sheet):
        assert b"planted" not in path.read_bytes()
    assert facts_in(made.images[-1], GeneratedImage).adapter == "https://host/adapter?token=***"


def test_a_prompt_that_no_file_can_hold_is_refused(tiny_unet, tmp_path):
    for prompt in ("caf\udce9", "a\0b"):
        with pytest.raises(ConfigError, match="no text"):
            generate(tiny_unet, tmp_path, prompts=[prompt])


def test_a_registered_version_is_named_by_its_number(tiny_unet, monkeypatch):
    from softalign import registry

    found = registry.PulledVersion(Path(tiny_unet.adapter), "shapes", 3, "champion", is_offline=False)
    monkeypatch.setattr(registry, "pull_version", lambda reference: found)
    assert choose_model("models:/shapes@champion", tiny_unet.base).adapter == "shapes/3"


def test_a_base_alone_is_loaded_without_t5_where_it_has_none(tiny_mmdit, tmp_path):
    settings = replace(SETTINGS, num_images=1, num_inference_steps=1)
    made = generate_to_folder("none", PROMPTS[:1], tmp_path, tiny_mmdit.base, settings)
    assert made.images[0].is_file()
    assert chosen_model.choose_model("none", tiny_mmdit.base).base.has_t5 is False
