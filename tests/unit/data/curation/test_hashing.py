"""Perceptual hashes: what they have in common with imagehash's, and with those of near-copies."""

import io

import imagehash
import numpy as np
import pytest
from PIL import Image

from softalign.config import CurationConfig, load_recipe
from softalign.data.curation.hashing import HASH_SIDE, perceptual_hash
from softalign.stages import requests
from softalign.stages.renewing import _likeness
from softalign.stages.requests import StageInputs, curate_request
from softalign.store.store import Store


def detailed_picture(seed, size=(256, 256)):
    """Return a picture with detail at every scale the hash sees, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


@pytest.mark.parametrize("size", [(333, 222), (640, 427), (429, 1001), (2000, 1500)])
def test_near_copies_have_near_hashes_and_other_pictures_do_not(size):
    original = perceptual_hash(detailed_picture(3, size))
    for scale in (1.0, 0.75, 0.5):
        smaller = detailed_picture(3, size).resize([round(scale * side) for side in size], Image.Resampling.LANCZOS)
        assert (original ^ perceptual_hash(saved(smaller, quality=85))).bit_count() <= 2
    assert (original ^ perceptual_hash(detailed_picture(4, size))).bit_count() > 90


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (255, 200), (40, 90), (1, 200)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_of_small_pictures_a_hash_is_that_of_imagehash(size, mode):
    image = detailed_picture(3, size).convert(mode)
    assert perceptual_hash(image) == int(str(imagehash.phash(image, hash_size=HASH_SIDE)), 16)


@pytest.mark.parametrize("size", [(256, 300), (640, 427), (2000, 1500)])
def test_of_larger_ones_it_is_near_it(size):
    image = detailed_picture(3, size)
    theirs = int(str(imagehash.phash(image, hash_size=HASH_SIDE)), 16)
    assert (perceptual_hash(image) ^ theirs).bit_count() <= 4


@pytest.mark.parametrize("size", [(64, 64), (640, 480)])
def test_a_picture_of_one_colour_has_one_bit_whatever_the_machine_rounds(size):
    assert perceptual_hash(Image.new("RGB", size, (200, 30, 90))) == 1 << (HASH_SIDE**2 - 1)


def request(tmp_path, changes):
    recipe = load_recipe("shapes")
    curation = CurationConfig.model_validate(recipe.curation.model_dump() | changes)
    return curate_request(StageInputs(recipe.model_copy(update={"curation": curation}), Store(str(tmp_path))))


UNHASHED = {"filters": {"max_hash_distance": -1}}


@pytest.mark.parametrize(
    ("mark", "changes", "is_another"),
    [
        ("HASHES", {}, True),
        ("HASHES", UNHASHED, False),
        ("FITTING", {"image_format": "jpg", "image_size_px": 512}, True),
        ("FITTING", {"image_format": "jpg"}, False),
    ],
)
def test_other_hashes_and_sizes_are_another_request_which_nothing_known_helps(
    mark, changes, is_another, tmp_path, monkeypatch
):
    before = request(tmp_path, changes)
    monkeypatch.setattr(requests, mark, "another")
    after = request(tmp_path, changes)
    assert (before.key != after.key) == (_likeness(before) != _likeness(after)) == is_another
