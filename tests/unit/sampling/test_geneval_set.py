"""A suite's images in the official layout: the same files however often, and by however many processes, it is begun."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from softalign.cli import app
from softalign.errors import ConfigError
from softalign.evaluation.suites import score_directory
from softalign.geneval.detections import Detection, write_detections
from softalign.geneval.layout import image_filename
from softalign.geneval.prompts import Clause, GenevalPrompt, to_json_line
from softalign.sampling import geneval_set
from softalign.sampling.geneval_set import SetSettings, generate_set

PROMPTS = tuple(
    GenevalPrompt(tag=f"own {index}", include=(Clause(class_name="dog", count=1),), prompt=text)
    for index, text in enumerate(("a dog", "two dogs", "a photo of a dog"))
)
SETTINGS = SetSettings(images_per_prompt=3, num_inference_steps=2, guidance_scale=3.0, seed=5, batch_size=2)
"""Nine images in batches of two: the last batch is smaller, and batches cross prompts."""


def generate(tiny, out, settings=SETTINGS, prompts=PROMPTS, *, has_adapter=False):
    return generate_set(tiny.base, tiny.adapter if has_adapter else None, prompts, out, settings)


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tiny_unet, tmp_path_factory):
    """An undisturbed set; read only."""
    out = tmp_path_factory.mktemp("whole") / "set"
    made = generate(tiny_unet, out)
    assert (made.num_images, made.num_made) == (9, 9)
    return out


def test_the_layout_is_the_official_one_and_can_be_scored(whole, tmp_path):
    expected = {image_filename(prompt, image) for prompt in range(3) for image in range(3)}
    expected |= {f"{prompt:05d}/metadata.jsonl" for prompt in range(3)}
    assert set(contents(whole)) == {*expected, "generation.json"}
    dog = Detection(class_name="dog", score=0.9, box=(0, 0, 1, 1))
    write_detections(tmp_path / "d.jsonl", {name: [dog] for name in expected if name.endswith(".png")})
    summary = score_directory(whole, tmp_path / "d.jsonl", tmp_path)
    assert summary.overall_score == 1.0
    assert list(summary.tags) == ["own 0", "own 1", "own 2"]


def test_a_restart_gives_the_same_bytes(whole, tiny_unet, tmp_path, monkeypatch):
    out, draw = tmp_path / "set", geneval_set.batch_drawer
    calls = []

    def dying(*arguments):
        inner = draw(*arguments)

        def draw_some(batch):
            calls.append(batch)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return inner(batch)

        return draw_some

    monkeypatch.setattr(geneval_set, "batch_drawer", dying)
    with pytest.raises(KeyboardInterrupt):
        generate(tiny_unet, out)
    (out / image_filename(0, 1)).write_bytes(b"cut")
    assert generate(tiny_unet, out).num_made == 7  # the batch with the damaged one, and three
    assert contents(out) == contents(whole)
    assert generate(tiny_unet, out).num_made == 0


def test_shards_give_the_same_bytes_in_any_order(whole, tiny_unet, tmp_path):
    numbers = [generate(tiny_unet, tmp_path, replace(SETTINGS, shard=(shard, 2))).num_made for shard in (2, 1)]
    assert numbers == [4, 5]
    assert contents(tmp_path) == contents(whole)


def test_another_batch_size_gives_the_same_pixels(whole, tiny_unet, tmp_path):
    generate(tiny_unet, tmp_path, replace(SETTINGS, batch_size=9))
    for prompt in range(3):
        for image in range(3):
            name = image_filename(prompt, image)
            with Image.open(whole / name) as one, Image.open(tmp_path / name) as other:
                assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


CHANGES = {
    "seed": {"seed": 6},
    "num_inference_steps": {"num_inference_steps": 3},
    "guidance_scale": {"guidance_scale": 2.0},
    "resolution_px": {"resolution_px": 16},
    "images_per_prompt": {"images_per_prompt": 4},
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_set_of_other_settings_is_refused_before_a_model_is_loaded(whole, tiny_unet, monkeypatch, field):
    monkeypatch.setattr(geneval_set, "load_model", None)
    before = contents(whole)
    with pytest.raises(ConfigError, match=field):
        generate(tiny_unet, whole, replace(SETTINGS, **CHANGES[field]))
    with pytest.raises(ConfigError, match="adapter"):
        generate(tiny_unet, whole, has_adapter=True)
    with pytest.raises(ConfigError, match="prompts"):
        generate(tiny_unet, whole, prompts=PROMPTS[:2])
    assert contents(whole) == before


def test_a_set_that_does_not_say_its_sampler_goes_on(whole, tiny_unet, tmp_path):
    shutil.copytree(whole, tmp_path / "set")
    path = tmp_path / "set" / "generation.json"
    said = json.loads(path.read_text())
    assert said.pop("sampler") == "DDIMScheduler"
    path.write_text(json.dumps(said))
    assert generate(tiny_unet, tmp_path / "set").num_made == 0


def test_images_of_somebody_else_and_impossible_requests_are_refused(tiny_unet, tmp_path):
    (tmp_path / "00000/samples").mkdir(parents=True)
    (tmp_path / "00000/samples/0000.png").write_bytes(b"theirs")
    with pytest.raises(ConfigError, match=r"images without generation\.json"):
        generate(tiny_unet, tmp_path)
    with pytest.raises(ConfigError, match="shard"):
        generate(tiny_unet, tmp_path / "a", replace(SETTINGS, shard=(3, 2)))
    with pytest.raises(ConfigError, match="multiple of 8"):
        generate(tiny_unet, tmp_path / "a", replace(SETTINGS, resolution_px=20))


def test_the_command_draws_with_an_adapter(whole, tiny_unet, tmp_path, capsys, monkeypatch):
    suite, out = tmp_path / "suite.jsonl", tmp_path / "set"
    suite.write_text("".join(to_json_line(prompt) + "\n" for prompt in PROMPTS))
    options = "--images-per-prompt 3 --num-inference-steps 2 --guidance-scale 3 --seed 5 --batch-size 2 --json".split()
    arguments = [tiny_unet.base, "--adapter", tiny_unet.adapter, "--prompts", str(suite), "--out", str(out), *options]
    monkeypatch.setattr(sys, "argv", ["softalign", "geneval", "generate", *arguments])
    with pytest.raises(SystemExit) as caught:
        app.main()
    assert not caught.value.code
    made = json.loads(capsys.readouterr().out)
    assert (made["num_images"], made["generation"]["adapter"]) == (9, "tiny-adapter")
    names = {name for name in contents(whole) if name.endswith(".png")}
    assert {name for name in contents(out) if name.endswith(".png")} == names
    assert any((out / name).read_bytes() != (whole / name).read_bytes() for name in names)
