"""The sentence of a stopped run: what is finished, how far the stage under way is."""

from types import SimpleNamespace

import pytest

from softalign.config import load_recipe
from softalign.stages.kept import kept_line
from softalign.store.store import Store


class HalfFullStore(Store):
    """A store in which the chain's first records are published."""

    def __init__(self, uri, num_found):
        super().__init__(uri)
        self.num_left, self.asked = num_found, None

    def find(self, record_type, key):
        self.asked = key
        self.num_left -= 1
        return SimpleNamespace(digest="d" * 64, parent_key="") if self.num_left >= 0 else None


@pytest.fixture(autouse=True)
def tokens_of_records_without_files(monkeypatch):
    monkeypatch.setattr("softalign.stages.requests.tokens_digest", lambda arm, *_: "" if arm == "base" else arm)


ARMS = ["evaluate (base)", "evaluate (untrained)", "evaluate (adapter)"]


@pytest.mark.parametrize(
    ("num_found", "kept"),
    [
        (1, "curate is kept"),
        (2, "curate and encode are kept"),
        (3, "curate, encode and train are kept"),
        (5, f"curate, encode, train, {ARMS[0]} and {ARMS[1]} are kept"),
        (6, f"curate, encode, train, {ARMS[0]}, {ARMS[1]} and {ARMS[2]} are kept"),
        (7, f"curate, encode, train, {ARMS[0]}, {ARMS[1]}, {ARMS[2]} and compare are kept"),
        (8, f"curate, encode, train, {ARMS[0]}, {ARMS[1]}, {ARMS[2]}, compare and register are kept"),
    ],
)
def test_finished_stages_are_named(tmp_path, num_found, kept):
    line = kept_line(load_recipe("shapes-unet"), HalfFullStore(str(tmp_path), num_found))
    assert line == f"stopped: {kept} in {tmp_path}; the same command goes on from there"


def test_nothing_finished_is_said_and_makes_nothing(tmp_path):
    line = kept_line(load_recipe("shapes-unet"), HalfFullStore(str(tmp_path / "s"), 0))
    assert line == f"stopped: no stage is finished yet in {tmp_path / 's'}; the same command goes on"
    assert not (tmp_path / "s").exists()


def test_the_newest_checkpoint_of_training_counts(tmp_path):
    recipe, store = load_recipe("shapes-unet", ["train.num_steps=300"]), HalfFullStore(str(tmp_path), 2)
    kept_line(recipe, store)
    for name in ("step-00000000", "step-00000100", "step-00000150", ".step-00000200.part"):
        (store.work_path("train", store.asked) / "checkpoints" / name).mkdir(parents=True)
    line = kept_line(recipe, HalfFullStore(str(tmp_path), 2))
    assert line.startswith("stopped: curate, encode and 150 of 300 training steps are kept in ")


def test_the_images_of_an_arm_count(tmp_path):
    recipe, store = load_recipe("shapes-unet"), HalfFullStore(str(tmp_path), 4)
    kept_line(recipe, store)
    samples = store.work_path("evaluate", store.asked) / "arm" / "images" / "00000" / "samples"
    samples.mkdir(parents=True)
    for name in ("0000.png", "0001.png", ".0002.png.part"):
        (samples / name).touch()
    line = kept_line(recipe, HalfFullStore(str(tmp_path), 4))
    assert "evaluate (base) and 2 images of evaluate (untrained) are kept" in line
