"""One generator per image: batches, order and restarts change nothing."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

from softalign.attempts import StopRequest
from softalign.backbones.base import load_pipeline
from softalign.config import BackboneConfig
from softalign.errors import PreemptedError
from softalign.sampling import (
    ImageRequest,
    SamplingSettings,
    generate_batch,
    generate_missing,
    image_seed,
    initial_noise,
    is_finished,
    png_bytes,
    use_ddim,
)
from tests.tiny_pipeline import LATENT_CHANNELS, save_tiny_pipeline

SETTINGS = SamplingSettings(num_inference_steps=2, guidance_scale=3.0, resolution_px=32, seed=5)
SHAPE = (LATENT_CHANNELS, 4, 4)
WORDS = ["circle", "square", "cross"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    model = save_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")
    config = BackboneConfig(family="sd15", model=model, resolution_px=32)
    return load_pipeline(config, device=torch.device("cpu"), dtype=torch.float32)


def requests(folder, num_images=2):
    return [
        ImageRequest(f"a photo of a {word}", index, image, folder / f"{index}-{image}.png")
        for index, word in enumerate(WORDS)
        for image in range(num_images)
    ]


def generate(pipeline, folder, batch_size, wanted=None):
    generate_missing(pipeline, wanted or requests(folder), SETTINGS, batch_size, StopRequest())
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pixels(pipeline, wanted, batch_size, settings=SETTINGS):
    batches = [wanted[i : i + batch_size] for i in range(0, len(wanted), batch_size)]
    return np.stack([image for batch in batches for image in generate_batch(pipeline, batch, settings)])


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


def test_batch_size_and_order_move_nothing_but_last_bits(pipeline, tmp_path):
    wanted = requests(tmp_path)
    reference = pixels(pipeline, wanted, 6).astype(int)
    assert len(np.unique(reference.reshape(6, -1), axis=0)) == 6
    for batch_size in (1, 4):
        assert np.abs(pixels(pipeline, wanted, batch_size) - reference).max() <= 1
    assert np.abs(pixels(pipeline, wanted[::-1], 3)[::-1] - reference).max() <= 1


def test_the_image_is_diffusers_own(pipeline, tmp_path):
    request = requests(tmp_path)[3]
    ours = next(iter(generate_batch(pipeline, [request], SETTINGS)))
    theirs = pipeline(
        request.prompt,
        latents=initial_noise(SETTINGS, request, SHAPE)[None],
        num_inference_steps=2,
        guidance_scale=3.0,
        height=32,
        width=32,
    ).images[0]
    assert np.array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize("changes", [{"guidance_scale": 1.0}, {"num_inference_steps": 3}, {"seed": 6}])
def test_every_setting_changes_the_image(pipeline, tmp_path, changes):
    wanted = requests(tmp_path)[:1]
    fields = {"num_inference_steps": 2, "guidance_scale": 3.0, "resolution_px": 32, "seed": 5}
    changed = SamplingSettings(**{**fields, **changes})
    assert not np.array_equal(pixels(pipeline, wanted, 1), pixels(pipeline, wanted, 1, changed))


def test_another_scheduler_becomes_ddim_with_its_noise_schedule(pipeline):
    own = pipeline.scheduler
    try:
        pipeline.scheduler = PNDMScheduler(beta_start=0.002, beta_end=0.03, skip_prk_steps=True)
        use_ddim(pipeline)
        assert isinstance(pipeline.scheduler, DDIMScheduler)
        assert pipeline.scheduler.config.beta_end == 0.03
    finally:
        pipeline.scheduler = own
    use_ddim(pipeline)
    assert pipeline.scheduler is own


@pytest.mark.parametrize("damage", [None, b"", b"\x89PNG\r\n\x1a\n", "truncated", "size"])
def test_a_restart_makes_what_is_missing_and_nothing_else(pipeline, tmp_path, damage):
    whole, folder = tmp_path / "whole", tmp_path / "restarted"
    expected = generate(pipeline, whole, 4)
    generate(pipeline, folder, 4)
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
    assert generate(pipeline, folder, 4) == expected
    assert (folder / "2-1.png").stat().st_mtime_ns == untouched
    assert generate_missing(pipeline, requests(folder), SETTINGS, 4, StopRequest()) == 0


def test_a_stop_keeps_finished_batches(pipeline, tmp_path):
    expected = generate(pipeline, tmp_path / "whole", 2)
    folder = tmp_path / "stopped"
    stop = StopRequest()
    with pytest.raises(PreemptedError, match="2 of 6"):
        generate_missing(_Calling(pipeline, stop), requests(folder), SETTINGS, 2, stop)
    assert len(list(folder.iterdir())) == 2
    assert generate(pipeline, folder, 2) == expected


class _Calling:
    """The pipeline, asking for a stop whenever it is called."""

    def __init__(self, pipeline, stop):
        self._pipeline, self._stop = pipeline, stop

    def __getattr__(self, name):
        return getattr(self._pipeline, name)

    def __call__(self, **kwargs):
        self._stop.is_set = True
        return self._pipeline(**kwargs)


def test_the_same_pixels_are_the_same_bytes():
    image = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    assert png_bytes(image) == png_bytes(image.copy())
    assert b"tEXt" not in png_bytes(image)
