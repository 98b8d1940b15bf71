"""Where a run's checkpoints are copied to."""

import pytest

from softalign.config import Runtime
from softalign.errors import DataError
from softalign.store.store import Store
from softalign.training.train import uploads_of


def test_a_local_store_needs_no_copies(tmp_path):
    assert uploads_of(Runtime(), Store(str(tmp_path)), "key") is None


def test_a_remote_store_holds_them_itself():
    assert uploads_of(Runtime(), Store("memory://store"), "key").uri == "memory://store/checkpoints/key"


def test_another_place_can_be_named_and_keeps_runs_apart(tmp_path):
    runtime = Runtime(checkpoint_uri=str(tmp_path))
    assert uploads_of(runtime, Store(str(tmp_path / "store")), "key").uri == f"{tmp_path}/key"


def test_an_adapter_is_no_such_place(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="exported adapter") as error:
        uploads_of(Runtime(checkpoint_uri=str(tmp_path)), Store("memory://store"), "key")
    assert f"train.init_from={tmp_path}" in error.value.fix
