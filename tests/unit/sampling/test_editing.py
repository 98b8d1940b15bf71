"""Editing pictures: which are taken, what is written and never replaced, and that it edits."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from PIL import Image

from softalign import FlowEditSettings, edit_image, load_soft_tokens
from softalign.cli import app
from softalign.errors import CompatibilityError, ConfigError, DataError, MissingInputError
from softalign.sampling import edit_to_file as editing
from softalign.sampling.edit_to_file import EditRequest, edit_to_file
from softalign.shapes import weights_path
from softalign.shapes.detector import detect
from softalign.shapes.scenes import render_batch, scene_of_words

SETTINGS = FlowEditSettings(num_inference_steps=3, n_max=2)


@pytest.fixture(scope="module")
def pipe(tiny_mmdit):
    return StableDiffusion3Pipeline.from_pretrained(tiny_mmdit.base, text_encoder_3=None, tokenizer_3=None)


def picture(width=32, height=32, mode="RGB"):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def edited(pipe, image, settings=SETTINGS, **options):
    made = edit_image(pipe, image, "a red circle", "a blue circle", settings, max_sequence_length=6, **options)
    return np.asarray(made)


@pytest.fixture
def request_of(tiny_mmdit, tmp_path):
    path = tmp_path / "picture.png"
    picture().save(path)
    common = {"scale": 1.0, "resolution_px": None, "is_forced": False, "settings": SETTINGS}
    return EditRequest(
        path, "a red circle", "a blue circle", tmp_path / "out.png", tiny_mmdit.adapter, tiny_mmdit.base, **common
    )


def test_without_steps_the_picture_comes_back_as_the_vae_has_it(pipe):
    from diffusers.image_processor import VaeImageProcessor

    still = edited(pipe, picture(), replace(SETTINGS, n_max=0))
    pixels = torch.from_numpy(np.asarray(picture(), np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        decoded = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample
    expected = np.asarray(VaeImageProcessor().postprocess(decoded)[0])
    assert np.abs(still.astype(int) - expected).max() <= 1
    assert not np.array_equal(edited(pipe, picture()), still)


def test_a_picture_keeps_its_sides_and_a_file_is_its_picture(pipe, tmp_path):
    made = edited(pipe, picture(48, 32))
    assert made.shape == (32, 48, 3)
    picture(48, 32).save(tmp_path / "p.png")
    assert np.array_equal(edited(pipe, str(tmp_path / "p.png")), made)
    assert edited(pipe, picture(50, 33), resolution_px=32).shape == (32, 32, 3)


def test_a_turned_photograph_is_edited_upright(pipe, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    picture(48, 32).save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(picture(48, 32).transpose(Image.Transpose.ROTATE_270))
    expected = edited(pipe, Image.fromarray(upright))
    assert np.array_equal(edited(pipe, tmp_path / "turned.png"), expected)
    with Image.open(tmp_path / "turned.png") as opened:
        assert np.array_equal(edited(pipe, opened), expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_every_mode_are_taken(pipe, mode):
    source = picture(mode="L").convert("I").convert("I;16") if mode == "I;16" else picture(mode=mode)
    assert edited(pipe, source).shape == (32, 32, 3)


@pytest.mark.parametrize("size", [(33, 32), (32, 40), (144, 32)])
def test_sides_that_do_not_fit_are_named_with_what_would(pipe, size):
    with pytest.raises(ConfigError, match=r"multiples of 16 up to 128 px") as error:
        edited(pipe, picture(*size))
    assert "--resolution-px (resolution_px), for this model 32" in error.value.fix


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (None, MissingInputError, "no such picture"),
        (b"no picture", DataError, "corrupt_image"),
        (b"", DataError, "empty"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", DataError, "picture"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, request_of, data, kind, said):
    path = tmp_path / "other.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(kind, match=said) as error:
        edit_to_file(replace(request_of, image=path))
    assert str(path) in str(error.value)


def test_models_that_predict_noise_are_refused_with_the_reason(tiny_unet, request_of, pipe):
    request = replace(request_of, adapter=tiny_unet.adapter, base=tiny_unet.base)
    with pytest.raises(CompatibilityError, match="sd15, which predicts noise") as error:
        edit_to_file(request)
    assert "sd3 or sd35" in error.value.expected
    with pytest.raises(CompatibilityError, match="StableDiffusionPipeline, which predicts noise"):
        edited(StableDiffusionPipeline.from_pretrained(tiny_unet.base), picture())


def test_psi_minus_on_the_unconditional_branch_is_refused(pipe, tiny_mmdit):
    with (
        load_soft_tokens(pipe, tiny_mmdit.adapter, unconditional_bank="negative"),
        pytest.raises(CompatibilityError, match="positive"),
    ):
        edited(pipe, picture())


def test_the_file_says_how_it_was_edited_and_is_the_functions_picture(request_of, pipe, tiny_mmdit, monkeypatch):
    assert edit_to_file(request_of)
    with Image.open(request_of.out) as image:
        said, pixels = dict(image.text), np.asarray(image)
    assert said["source_prompt"] == "a red circle" and said["target_prompt"] == "a blue circle"
    assert (said["n_max"], said["target_guidance_scale"], said["adapter"]) == ("2", "13.5", "tiny-adapter")
    assert json.loads(said["softalign"])["image_sha256"] == said["image_sha256"]
    with load_soft_tokens(pipe, tiny_mmdit.adapter):
        own = edit_image(pipe, request_of.image, "a red circle", "a blue circle", SETTINGS)
    assert np.array_equal(pixels, np.asarray(own))
    before = request_of.out.read_bytes()
    monkeypatch.setattr(editing, "load_model", None)
    assert not edit_to_file(request_of)
    with pytest.raises(ConfigError, match="nothing was written") as error:
        edit_to_file(replace(request_of, target_prompt="a green circle"))
    assert "target_prompt 'a blue circle', not 'a green circle'" in error.value.found
    picture(mode="L").save(request_of.image)
    with pytest.raises(ConfigError, match="image_sha256"):
        edit_to_file(request_of)
    assert request_of.out.read_bytes() == before


def test_nothing_is_replaced_silently_and_the_picture_itself_never(request_of, monkeypatch):
    monkeypatch.setattr(editing, "choose_model", None)
    request_of.out.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="nothing was written"):
        edit_to_file(request_of)
    before = request_of.image.read_bytes()
    with pytest.raises(ConfigError, match="replace the picture itself"):
        edit_to_file(replace(request_of, out=request_of.image), is_overwriting=True)
    for out in ("out.jpg", "out"):
        with pytest.raises(ConfigError, match=r"a \.png file"):
            edit_to_file(replace(request_of, out=request_of.out.with_name(out)))
    assert (request_of.out.read_bytes(), request_of.image.read_bytes()) == (b"mine", before)


def test_overwriting_replaces_what_another_request_made(request_of):
    request_of.out.write_bytes(b"mine")
    assert edit_to_file(request_of, is_overwriting=True)
    first = request_of.out.read_bytes()
    assert edit_to_file(replace(request_of, scale=0.0), is_overwriting=True)
    with_none = request_of.out.read_bytes()
    assert with_none != first
    alone = replace(request_of, adapter="none", out=request_of.out.with_name("base.png"))
    assert edit_to_file(alone)
    assert np.array_equal(np.asarray(Image.open(alone.out)), np.asarray(Image.open(request_of.out)))


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["softalign", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        app.main()
    return stop.value.code or 0, capsys.readouterr()


def test_the_command_edits_in_the_embedded_world(tmp_path, monkeypatch, capsys):
    """What the embedded MMDiT makes of a red circle is, by its detector, a blue one."""
    scene = scene_of_words(np.random.default_rng(0), [("circle", "red")])
    Image.fromarray(render_batch([scene])[0]).save(tmp_path / "red.png")
    prompts = ("--from", "a photo of a red circle", "--to", "a photo of a blue circle")
    less = ("--source-guidance-scale", 1, "--target-guidance-scale", 3.5, "--num-inference-steps", 15, "--n-max", 11)
    monkeypatch.chdir(tmp_path)
    code, said = command(monkeypatch, capsys, "edit", "red.png", *prompts, "--base", "shapes", *less, "--json")
    assert (code, json.loads(said.out)) == (0, {"image": "red-edited.png", "is_kept": False})
    (found,) = detect(np.asarray(Image.open(tmp_path / "red-edited.png")))
    assert (found.class_name, found.color) == ("circle", "blue")
    code, said = command(monkeypatch, capsys, "edit", "red.png", *prompts)
    assert code == 2 and "--base" in said.err


def test_the_shapes_pipeline_of_the_readme_edits():
    pipe = StableDiffusion3Pipeline.from_pretrained(weights_path("sd3"), text_encoder_3=None, tokenizer_3=None)
    scene = scene_of_words(np.random.default_rng(1), [("square", "green")])
    image = Image.fromarray(render_batch([scene])[0])
    settings = FlowEditSettings(15, 11, source_guidance_scale=1.0, target_guidance_scale=3.5)
    made = edit_image(pipe, image, "a photo of a green square", "a photo of a green cross", settings)
    (found,) = detect(np.asarray(made))
    assert (found.class_name, found.color) == ("cross", "green")
