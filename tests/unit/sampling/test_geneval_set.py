"""A suite's images in the official layout: the same files however often, and by however many processes, it is begun."""

import json
import random
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from softalign.cli import app
from softalign.config import Runtime
from softalign.config.engine import LocalEngine, RayEngine
from softalign.engines.work import InProcess
from softalign.errors import CompatibilityError, ConfigError
from softalign.evaluation.suites import score_directory
from softalign.geneval.detections import Detection, write_detections
from softalign.geneval.layout import image_filename, read_folders
from softalign.geneval.prompts import Clause, GenevalPrompt, to_json_line
from softalign.sampling import geneval_set, sampling
from softalign.sampling.geneval_set import SetSettings, generate_set
from tests.killing import Fuse, is_killed
from tests.tiny_judge import suite_text

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


def pixels(out):
    images = {}
    for path in sorted(out.rglob("*.png")):
        with Image.open(path) as image:
            images[str(path.relative_to(out))] = np.asarray(image).astype(int)
    return images


@pytest.mark.parametrize("has_adapter", [False, True])
@pytest.mark.parametrize("layout", ["tiny_unet", "tiny_xl", "tiny_mmdit"])
def test_every_layout_gives_the_same_set_begun_again_and_by_other_batches(layout, has_adapter, request, tmp_path):
    tiny = request.getfixturevalue(layout)
    generate(tiny, tmp_path / "once", has_adapter=has_adapter)
    once = contents(tmp_path / "once")
    assert sum(name.endswith(".png") for name in once) == 9
    generate(tiny, tmp_path / "twice", replace(SETTINGS, shard=(2, 2)), has_adapter=has_adapter)
    (tmp_path / "twice" / image_filename(1, 0)).unlink()
    assert generate(tiny, tmp_path / "twice", has_adapter=has_adapter).num_made == 7  # the other shard, and its batch
    assert contents(tmp_path / "twice") == once
    generate(tiny, tmp_path / "other", replace(SETTINGS, batch_size=9), has_adapter=has_adapter)
    other = pixels(tmp_path / "other")
    assert max(np.abs(image - other[name]).max() for name, image in pixels(tmp_path / "once").items()) <= 1


def test_an_adapter_changes_every_layouts_images(tiny_unet, tiny_xl, tiny_mmdit, tmp_path):
    few = replace(SETTINGS, images_per_prompt=1)
    for number, tiny in enumerate((tiny_unet, tiny_xl, tiny_mmdit)):
        for has_adapter in (False, True):
            generate(tiny, tmp_path / f"{number} {has_adapter}", few, PROMPTS[:1], has_adapter=has_adapter)
        base, adapted = (contents(tmp_path / f"{number} {has_adapter}") for has_adapter in (False, True))
        assert base[image_filename(0, 0)] != adapted[image_filename(0, 0)]


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


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(whole, tiny_unet, tmp_path):
    two = Runtime(device="cpu", engine=LocalEngine(num_processes=2))
    assert generate(tiny_unet, tmp_path, replace(SETTINGS, runtime=two)).num_made == 9
    assert contents(tmp_path) == contents(whole)


KILLS = ((Path, "write_text", 3), (Path, "replace", 4), (sampling, "generate_batch", 2), (Path, "replace", 3))
"""What is under way when a run is killed, in order, and before which of its calls at the latest."""


def killed_at(place, name, call, tiny, out):
    def run():
        torch.set_num_threads(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, name, Fuse(call).wrap(getattr(place, name)))
            generate(tiny, out)

    return is_killed(run)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_calls_the_finished_set_is_the_undisturbed_one(seed, whole, tiny_unet, tmp_path):
    points = random.Random(seed)
    for place, name, last in KILLS:
        assert killed_at(place, name, points.randint(1, last), tiny_unet, tmp_path)
    assert len(list(tmp_path.rglob(".*.png.*"))) == 2  # of the images that were being written
    assert generate(tiny_unet, tmp_path).num_made > 0
    assert contents(tmp_path) == contents(whole)


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


@pytest.mark.parametrize("sample_size", [None, [4, 8]])
def test_a_model_that_says_no_side_is_refused_in_words_and_drawn_at_a_side_that_is_asked_for(
    tiny_unet, tmp_path, sample_size
):
    base = shutil.copytree(tiny_unet.base, tmp_path / "base")
    path = base / "unet/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": sample_size}))
    with pytest.raises(CompatibilityError, match="--resolution-px"):
        generate_set(str(base), None, PROMPTS, tmp_path / "set", SETTINGS)
    assert not (tmp_path / "set").exists()
    asked = replace(SETTINGS, resolution_px=16, images_per_prompt=1)
    assert generate_set(str(base), None, PROMPTS[:1], tmp_path / "set", asked).num_made == 1
    with Image.open(tmp_path / "set" / image_filename(0, 0)) as image:
        assert image.size == (16, 16)


def test_a_side_that_is_said_twice_is_one():
    assert sampling.side_px(4, 8) == sampling.side_px([4, 4], 8) == 32


@pytest.mark.parametrize(
    ("options", "engine"),
    [
        ([], LocalEngine(num_processes=1)),
        (["--workers", "3"], LocalEngine(num_processes=3)),
        (["--ray", "local"], RayEngine(address=None)),
        (["--ray", "host:6379"], RayEngine(address="host:6379")),
    ],
)
def test_the_command_says_who_draws(options, engine, tiny_unet, tmp_path, monkeypatch):
    opened = []

    @contextmanager
    def opening(runtime):
        opened.append(runtime.engine)
        yield InProcess()

    monkeypatch.setattr(geneval_set, "open_engine", opening)
    (tmp_path / "suite.jsonl").write_text(to_json_line(PROMPTS[0]))
    suite = ["--prompts", str(tmp_path / "suite.jsonl"), "--images-per-prompt", "1", "--num-inference-steps", "1"]
    drawn = CliRunner().invoke(
        app.app, ["geneval", "generate", tiny_unet.base, "--out", str(tmp_path / "set"), *suite, *options]
    )
    assert drawn.exit_code == 0, drawn.output
    assert opened == [engine] and (tmp_path / "set" / image_filename(0, 0)).is_file()


def test_processes_that_would_have_no_effect_are_refused(tiny_unet, tmp_path, monkeypatch):
    monkeypatch.setattr(geneval_set, "resolve_device", lambda _runtime: torch.device("cuda"))
    several = Runtime(engine=LocalEngine(num_processes=2))
    with pytest.raises(ConfigError, match="--ray local"):
        generate(tiny_unet, tmp_path / "set", replace(SETTINGS, runtime=several))
    with pytest.raises(ConfigError, match="one of them"):
        CliRunner().invoke(
            app.app,
            ["geneval", "generate", "m", "--out", str(tmp_path), "--workers", "2", "--ray", "auto"],
            catch_exceptions=False,
        )


def test_an_adapter_of_another_family_is_refused_and_nothing_is_written(tiny_xl, tiny_mmdit, tmp_path):
    with pytest.raises(CompatibilityError, match="StableDiffusion3Pipeline"):
        generate_set(tiny_xl.base, tiny_mmdit.adapter, PROMPTS, tmp_path, SETTINGS)
    assert list(tmp_path.iterdir()) == []


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


def test_the_command_draws_prompts_of_geneval_2_and_keeps_what_they_are_asked(tiny_unet, tmp_path, monkeypatch):
    suite, out = tmp_path / "suite.jsonl", tmp_path / "set"
    suite.write_text(suite_text())
    options = ["--out", str(out), "--suite", str(suite), "--images-per-prompt", "1", "--num-inference-steps", "1"]
    monkeypatch.setattr(sys, "argv", ["softalign", "geneval", "generate", tiny_unet.base, *options, "--json"])
    with pytest.raises(SystemExit) as caught:
        app.main()
    assert not caught.value.code
    assert "".join((out / f"{place:05d}/metadata.jsonl").read_text() for place in range(3)) == suite.read_text()
    assert [len(folder.filenames) for folder in read_folders(out)] == [1, 1, 1]
