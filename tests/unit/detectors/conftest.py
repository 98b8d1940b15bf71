import pytest

from tests.tiny_detector import detect_in_small, save_tiny_detector


@pytest.fixture(scope="session")
def tiny_detector(tmp_path_factory):
    """The configuration of a detector with random weights."""
    return save_tiny_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def small_inputs(monkeypatch):
    """Images are scaled to 96 pixels instead of 800, which takes a fiftieth of the time."""
    detect_in_small(monkeypatch, 96, 160)
