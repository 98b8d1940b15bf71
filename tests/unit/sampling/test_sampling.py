"""One generator per image: batches, order and restarts change nothing."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

from softalign.backbones.loading import load_backbone
from softalign.config import BackboneConfig
from softalign.errors import ConfigError, PreemptedError
from softalign.processes.progress import listening
from softalign.processes.stopping import StopRequest
from softalign.sampling.sampling import (
    ImageRequest,
    SamplingSettings,
    batch_drawer,
    generate_batch,
    generate_missing,
    image_seed,
    initial_noise,
    is_finished,
    png_bytes,
)
from tests.tiny_pipeline import LATENT_CHANNELS, save_tiny_pipeline

SETTINGS = SamplingSettings(num_inference_steps=2, guidance_scale=3.0, resolution_px=32, seed=5)
SHAPE = (LATENT_CHANNELS, 4, 4)
WORDS = ["circle", "square", "cross"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    model = save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")
    config = BackboneConfig(family="sd15", model=model, resolution_px=32)
    return load_backbone(config, device=torch.device("cpu"), dtype=torch.float32)


def requests(folder, num_images=2):
    return [
        ImageRequest(f"a photo of a {word}", index, image, folder / f"{index}-{image}.png")
        for index, word in enumerate(WORDS)
        for image in range(num_images)
    ]


def missing(backbone, wanted, batch_size, stop=None):
    drawn = partial(map, batch_drawer(backbone, SETTINGS))
    return generate_missing(drawn, wanted, SETTINGS.resolution_px, batch_size, stop or StopRequest())


def generate(backbone, folder, batch_size, wanted=None):
    missing(backbone, wanted or requests(folder), batch_size)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pixels(backbone, wanted, batch_size, settings=SETTINGS):
    batches = [wanted[i : i + batch_size] for i in range(0, len(wanted), batch_size)]
    return np.stack([image for batch in batches for image in generate_batch(backbone, batch, settings)])


def test_the_noise_depends_on_seed_and_both_indices_alone(tmp_path):
    first, second = ImageRequest("a", 3, 1, tmp_path / "x"), ImageRequest("b", 3, 1, tmp_path / "y")
    assert torch.equal(initial_noise(SETTINGS, first, SHAPE), initial_noise(SETTINGS, second, SHAPE))
    seeds = {image_seed(s, p, i) for s in range(5) for p in range(20) for i in range(4)}
    assert len(seeds) == 400
    assert image_seed(0, 12, 3) != image_seed(0, 1, 23)
    assert image_seed(-1, 0, 0) >= 0


def test_the_noise_is_standard_normal(tmp_path):
    noise = initial_noise(SETTINGS, ImageRequest("a", 0, 0, tmp_path), (16, 64, 64))
    assert noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def test_batch_size_and_order_move_nothing_but_last_bits(backbone, tmp_path):
    wanted = requests(tmp_path)
    reference = pixels(backbone, wanted, 6).astype(int)
    assert len(np.unique(reference.reshape(6, -1), axis=0)) == 6
    for batch_size in (1, 4):
        assert np.abs(pixels(backbone, wanted, batch_size) - reference).max() <= 1
    assert np.abs(pixels(backbone, wanted[::-1], 3)[::-1] - reference).max() <= 1


def test_the_image_is_diffusers_own(backbone, tmp_path):
    request = requests(tmp_path)[3]
    ours = next(iter(generate_batch(backbone, [request], SETTINGS)))
    theirs = backbone.pipeline(
        request.prompt,
        latents=initial_noise(SETTINGS, request, SHAPE)[None],
        num_inference_steps=2,
        guidance_scale=3.0,
        height=32,
        width=32,
    ).images[0]
    assert np.array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize("changes", [{"guidance_scale": 1.0}, {"num_inference_steps": 3}, {"seed": 6}])
def test_every_setting_changes_the_image(backbone, tmp_path, changes):
    wanted = requests(tmp_path)[:1]
    fields = {"num_inference_steps": 2, "guidance_scale": 3.0, "resolution_px": 32, "seed": 5}
    changed = SamplingSettings(**{**fields, **changes})
    assert not np.array_equal(pixels(backbone, wanted, 1), pixels(backbone, wanted, 1, changed))


def test_more_steps_than_timesteps_are_refused(backbone, tmp_path):
    with pytest.raises(ConfigError, match="at most 1000"):
        pixels(backbone, requests(tmp_path), 2, replace(SETTINGS, num_inference_steps=1001))


def test_another_scheduler_becomes_ddim_with_its_noise_schedule(backbone):
    own = backbone.pipeline.scheduler
    try:
        backbone.pipeline.scheduler = PNDMScheduler(beta_start=0.002, beta_end=0.03, skip_prk_steps=True)
        backbone.use_papers_sampler()
        assert isinstance(backbone.pipeline.scheduler, DDIMScheduler)
        assert backbone.pipeline.scheduler.config.beta_end == 0.03
    finally:
        backbone.pipeline.scheduler = own
    backbone.use_papers_sampler()
    assert backbone.pipeline.scheduler is own


@pytest.mark.parametrize("damage", [None, b"", b"\x89PNG\r\n\x1a\n", "truncated", "size"])
def test_a_restart_makes_what_is_missing_and_nothing_else(backbone, tmp_path, damage):
    whole, folder = tmp_path / "whole", tmp_path / "restarted"
    expected = generate(backbone, whole, 4)
    generate(backbone, folder, 4)
    victim = folder / "1-0.png"
    good = victim.read_bytes()
    if damage is None:
        victim.unlink()
    elif damage == "truncated":
        victim.write_bytes(good[: len(good) // 2])
    elif damage == "size":
        victim.write_bytes(png_bytes(np.zeros((16, 16, 3), np.uint8)))
    else:
        victim.write_bytes(damage)
    assert not is_finished(victim, 32)
    untouched = (folder / "2-1.png").stat().st_mtime_ns
    assert generate(backbone, folder, 4) == expected
    assert (folder / "2-1.png").stat().st_mtime_ns == untouched
    assert missing(backbone, requests(folder), 4) == 0


def test_it_reports_all_images_those_of_before_as_such(backbone, tmp_path):
    heard = []
    expected = generate(backbone, tmp_path, 2)
    (tmp_path / "1-0.png").unlink()
    with listening(heard.append):
        assert generate(backbone, tmp_path, 2) == expected
    assert [(report.done, report.total, report.num_reused) for report in heard] == [(4, 6, 4), (6, 6, 4), (6, 6, 4)]


def test_a_stop_keeps_finished_batches(backbone, tmp_path):
    expected = generate(backbone, tmp_path / "whole", 2)
    folder = tmp_path / "stopped"
    stop = StopRequest()
    with pytest.raises(PreemptedError, match="2 of 6"):
        missing(_Calling(backbone, stop), requests(folder), 2, stop)
    assert len(list(folder.iterdir())) == 2
    assert generate(backbone, folder, 2) == expected


class _Calling:
    """The backbone, asking for a stop whenever it encodes prompts."""

    def __init__(self, backbone, stop):
        self._backbone, self._stop = backbone, stop

    def __getattr__(self, name):
        return getattr(self._backbone, name)

    def encode_for_guidance(self, prompts):
        self._stop.is_set = True
        return self._backbone.encode_for_guidance(prompts)


def test_the_same_pixels_are_the_same_bytes():
    image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    assert png_bytes(image) == png_bytes(image.copy())
    assert b"tEXt" not in png_bytes(image)
