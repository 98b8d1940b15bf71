"""The detector of photographs on CUDA: sound, repeatable, and in agreement with the CPU.

Run there with ``pytest -m gpu tests/gpu``; the same tests run on the CPU in every other run.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from softalign.detectors.golden import golden_findings
from softalign.detectors.photographs import load_detector
from softalign.detectors.self_test import attention_error
from tests.tiny_detector import detect_in_small, save_tiny_detector


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def images(monkeypatch, any_device):
    detect_in_small(monkeypatch, 128, device=any_device)
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (6, 6, 3), dtype=np.uint8) for _ in range(6)]
    return [np.asarray(Image.fromarray(one).resize((64, 64))) for one in small]


def test_a_known_segmenter_finds_what_it_finds_on_the_cpu(any_device):
    assert golden_findings(any_device) == ()


def test_detections_are_the_same_twice_and_those_of_the_cpu(any_device, models, images):
    detector = load_detector(models, any_device)
    found = detector(images)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True  # the detector turns it off
    try:
        assert detector(images) == found
        assert attention_error(any_device) < 1e-5
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    expected = load_detector(models, torch.device("cpu"))(images)
    for ours, theirs in zip(found, expected, strict=True):
        assert [one.class_name for one in ours] == [one.class_name for one in theirs]
        np.testing.assert_allclose([one.score for one in ours], [one.score for one in theirs], atol=1e-3)
        np.testing.assert_allclose([one.box for one in ours], [one.box for one in theirs], atol=1)
    assert sum(map(len, found)) > 3
