"""Killed at random calls that change files: checkpoints, rows, the adapter's folder and its publication."""

import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from softalign.artifacts import Adapter
from softalign.config import BackboneConfig, Runtime, TrainConfig
from softalign.data.encoding.encode import encode
from softalign.store.store import Store
from softalign.training import between_steps, loop
from softalign.training.train import train
from tests.killing import Fuse, is_killed
from tests.tiny_pipeline import save_tiny_pipeline
from tests.unit.data.encoding.test_encode import captions_of, make_dataset

CONFIG = TrainConfig(num_steps=8, batch_size=3, validate_every_steps=3, sample_every_steps=4)
RUNTIME = Runtime(num_threads=1, checkpoint_every_steps=2)
WRITING = ((os, "fsync"), (Path, "replace"), (Path, "write_text"), (shutil, "rmtree"), (shutil, "copyfile"))
ROWS = ((loop, "to_line"), (between_steps, "to_line"))
NUM_LAST_CALLS = 20
"""So many calls before its end a run is writing the adapter's folder, or publishing it."""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    backbone = BackboneConfig(family="sd15", model=save_tiny_pipeline(root / "model"), resolution_px=32)
    store = Store(str(root / "store"))
    encoded = encode(make_dataset(root, store, captions_of(range(40)), "d"), backbone, RUNTIME, store, "e")
    return encoded, backbone, store


def trained(setting, key, fuse):
    """Train with a fuse on all calls that change files."""
    torch.set_num_threads(1)
    encoded, backbone, store = setting
    with pytest.MonkeyPatch.context() as patch:
        for place, name in (*WRITING, *ROWS):
            patch.setattr(place, name, fuse.wrap(getattr(place, name)))
        return train(encoded, backbone, CONFIG, RUNTIME, store, key, "tiny")


def files_of(adapter):
    folder = Path(adapter.uri)
    names = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != Adapter.filename)
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


@pytest.fixture(scope="module")
def undisturbed(setting):
    fuse = Fuse(1 << 30)
    adapter = trained(setting, "undisturbed", fuse)
    return files_of(adapter), (1 << 30) - fuse.num_left


def finish(setting, key):
    _, _, store = setting
    adapter = trained(setting, key, Fuse(1 << 30))
    assert store.find(Adapter, key) == adapter
    return files_of(adapter)


def test_killed_again_and_again_it_ends_with_the_same_bytes(setting, undisturbed):
    expected, num_calls = undisturbed
    points = [random.randint(1, num_calls // 2) for _ in range(6)]
    killed = [is_killed(lambda point=point: trained(setting, "again", Fuse(point))) for point in points]
    assert killed[0]
    assert finish(setting, "again") == expected, f"killed before calls {points}"


def test_killed_while_it_exports_and_publishes_it_ends_with_the_same_bytes(setting, undisturbed):
    expected, num_calls = undisturbed
    for point in random.sample(range(num_calls - NUM_LAST_CALLS, num_calls + 1), 4):
        key = f"published {point}"
        assert is_killed(lambda point=point, key=key: trained(setting, key, Fuse(point)))
        assert finish(setting, key) == expected, f"killed before call {point} of {num_calls}"
