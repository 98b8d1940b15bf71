import pytest

from softalign.detectors import preprocessing
from tests.tiny_detector import save_tiny_detector


@pytest.fixture(scope="session")
def tiny_detector(tmp_path_factory):
    """The configuration of a detector with random weights."""
    return save_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def small_inputs(monkeypatch):
    """Images are scaled to 96 pixels instead of 800, which takes a fiftieth of the time."""
    monkeypatch.setattr(preprocessing, "SHORT_SIDE_PX", 96)
    monkeypatch.setattr(preprocessing, "LONG_SIDE_PX", 160)
