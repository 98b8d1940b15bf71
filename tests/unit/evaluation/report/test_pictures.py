import base64
import io

import numpy as np
import pytest
from PIL import Image

from softalign.evaluation.report import pictures
from softalign.evaluation.report.pictures import PictureFile, pictures_of

ROOMY = 10_000_000


def save(folder, side, num_images=4):
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(num_images)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return paths


def files_of(paths, told=lambda index: True):
    return [PictureFile(path.read_bytes, told(index)) for index, path in enumerate(paths)]


def side_of(picture):
    return max(Image.open(io.BytesIO(base64.b64decode(picture))).size)


def test_small_images_are_embedded_as_they_are(tmp_path):
    paths = save(tmp_path, 32)
    made = pictures_of(files_of(paths), ROOMY)
    assert [base64.b64decode(picture) for picture in made.base64] == [path.read_bytes() for path in paths]
    assert (made.media_type, made.sizes) == ("image/png", ((32, 32),) * 4)


def test_small_images_beyond_the_budget_lose_their_exactness_and_not_the_page(tmp_path):
    files = files_of(save(tmp_path, 32))
    made = pictures_of(files, sum(map(len, pictures_of(files, ROOMY).base64)) // 2)
    assert made.media_type == "image/webp"


def test_large_images_become_thumbnails_within_the_budget(tmp_path):
    files = files_of(save(tmp_path, 300))
    roomy = pictures_of(files, ROOMY)
    assert (side_of(roomy.base64[0]), roomy.sizes[0]) == (256, (300, 300))
    budget = sum(map(len, roomy.base64)) // 3
    tight = pictures_of(files, budget)
    assert sum(map(len, tight.base64)) <= budget
    assert tight == pictures_of(files, budget)


def test_where_room_is_short_pictures_whose_verdicts_differ_are_the_larger_ones(tmp_path):
    files = files_of(save(tmp_path, 160, 6), lambda index: index % 3 == 0)
    made = pictures_of(files, sum(map(len, pictures_of(files, ROOMY).base64)) // 8)
    told, others = ({side_of(made.base64[i]) for i in range(6) if files[i].is_told is one} for one in (True, False))
    assert min(told) > max(others)


def test_estimates_that_are_too_low_cost_a_rung_and_not_the_budget(tmp_path, monkeypatch):
    """The probes are the plain ones of many images: every other one, as it happens."""
    monkeypatch.setattr(pictures, "_NUM_PROBES", 4)
    paths = save(tmp_path, 100, 8)
    for path in paths[::2]:
        Image.new("RGB", (100, 100), "grey").save(path)
    budget = 15_000
    made = pictures_of(files_of(paths), budget)
    assert sum(map(len, made.base64)) <= budget


def test_pictures_stand_upright_as_detectors_see_them(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.new("RGB", (300, 200)).save(tmp_path / "turned.jpg", exif=exif)
    made = pictures_of(files_of([tmp_path / "turned.jpg"]), ROOMY)
    assert made.sizes == ((200, 300),)
    width, height = Image.open(io.BytesIO(base64.b64decode(made.base64[0]))).size
    assert height == 256 and width < height


def test_damaged_pixels_are_no_picture_and_stop_no_page(tmp_path):
    paths = save(tmp_path, 300, 3)
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[:5000] + bytes(2000) + data[7000:])
    made = pictures_of(files_of(paths), ROOMY)
    assert [bool(picture) for picture in made.base64] == [True, False, True]


@pytest.mark.parametrize("side", [32, 300])
def test_no_images_are_no_pictures(tmp_path, side):
    assert pictures_of([], ROOMY).base64 == ()
    assert len(pictures_of(files_of(save(tmp_path, side, 1)), ROOMY).base64) == 1
