import base64
import io

import numpy as np
import pytest
from PIL import Image

from softalign.evaluation.report import pictures
from softalign.evaluation.report.pictures import data_uris


def save(folder, side, num_images=6):
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(num_images)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return paths


def decoded(uri):
    return base64.b64decode(uri.partition(",")[2])


def test_small_images_are_embedded_as_they_are(tmp_path):
    paths = save(tmp_path, 32)
    read = [path.read_bytes for path in paths]
    assert [decoded(uri) for uri in data_uris(read)] == [path.read_bytes() for path in paths]


def test_large_images_become_thumbnails_within_the_budget(tmp_path, monkeypatch):
    read = [path.read_bytes for path in save(tmp_path, 300)]
    roomy = data_uris(read)
    assert Image.open(io.BytesIO(decoded(roomy[0]))).size == (256, 256)
    budget = sum(len(decoded(uri)) for uri in roomy) // 3
    monkeypatch.setattr(pictures, "PICTURE_BUDGET_BYTES", budget)
    tight = data_uris(read)
    assert sum(len(decoded(uri)) for uri in tight) <= budget
    assert tight == data_uris(read)


@pytest.mark.parametrize("side", [32, 300])
def test_no_images_are_no_pictures(tmp_path, side):
    assert data_uris([]) == []
    assert len(data_uris([path.read_bytes for path in save(tmp_path, side, 1)])) == 1
