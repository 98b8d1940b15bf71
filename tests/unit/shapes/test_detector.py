"""The detector on renders, on reconstructions by the shipped autoencoder, and on things that are not shapes."""

from collections import Counter

import numpy as np
import pytest

from softalign.shapes.detector import ShapesDetector, detect, score_of_iou
from softalign.shapes.scenes import COLORS, SHAPES, Scene, SceneObject, render, render_batch, sample_scene


def share_right(scenes, images, threshold=0.3):
    verdicts = []
    for scene, found in zip(scenes, ShapesDetector()(images), strict=True):
        wanted = Counter((o.shape, o.color) for o in scene.objects)
        verdicts.append(wanted == Counter((d.class_name, d.color) for d in found if d.score > threshold))
    return float(np.mean(verdicts))


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(11)
    return [sample_scene(rng) for _ in range(300)]


def test_renders_are_read_right(scenes):
    images = render_batch(scenes)
    assert share_right(scenes, images) >= 0.99
    assert share_right(scenes, images, threshold=0.9) >= 0.99


def test_reconstructions_are_read_right(scenes):
    from diffusers import AutoencoderKL

    from softalign.shapes import weights_path
    from softalign.shapes.pretraining.train_autoencoder import decode_latents, encode_images

    vae = AutoencoderKL.from_pretrained(weights_path(), subfolder="vae").float().eval()
    latents = encode_images(vae, render_batch(scenes))
    assert float(latents.std()) == pytest.approx(1.0, abs=0.1)
    assert share_right(scenes, decode_latents(vae, latents)) >= 0.97


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_every_word_and_its_box(shape, color):
    obj = SceneObject(shape, color, 2, 1, 0.2, -0.3, 2.9)
    (found,) = detect(render(Scene((obj,), 135)))
    assert (found.class_name, found.color) == (shape, color)
    assert found.score > 0.9
    assert found.box == pytest.approx(obj.box_px, abs=1.3)


def test_neighbours_of_one_colour_stay_apart():
    objects = tuple(SceneObject("circle", "red", 0, column, 0.0, 0.0, 3.2) for column in range(4))
    assert len(detect(render(Scene(objects, 140)))) == 4


def test_blobs_score_low_and_noise_is_nothing():
    image = np.full((32, 32, 3), 140, np.uint8)
    assert detect(image) == []
    image[4:20, 4:8] = (214, 40, 40)
    assert all(d.score < 0.3 for d in detect(image))
    noise = np.random.default_rng(0).normal(140, 6, (32, 32, 3)).astype(np.uint8)
    assert all(d.score < 0.3 for d in detect(noise))


def test_scores_follow_the_protocols_thresholds():
    assert score_of_iou(0.55) < 0.3 < score_of_iou(0.6)
    assert score_of_iou(0.70) < 0.9 < score_of_iou(0.75)


def test_other_formats_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        detect(np.zeros((32, 32, 3), np.float32))
