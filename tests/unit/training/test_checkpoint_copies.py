"""Checkpoints are copied to a URI, survive kills in the middle of an upload, and are found by a fresh machine."""

import dataclasses
import json
import logging
import random
import shutil
import threading
import time

import fsspec
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from softalign.config import Runtime, TrainConfig
from softalign.errors import DataError, PreemptedError
from softalign.processes.stopping import StopRequest
from softalign.training import checkpoint_copies
from softalign.training.checkpoint_copies import CheckpointUploads
from softalign.training.checkpoints import list_checkpoints
from softalign.training.loop import run_steps
from tests.killing import Fuse, is_killed
from tests.unit.training import tiny_training as tiny

RUNTIME = Runtime(num_threads=1, checkpoint_every_steps=2, keep_checkpoints=2)
CONFIG = TrainConfig(num_steps=12, batch_size=3, validate_every_steps=5, ema_decay=0.9, noise_sharing="per_image")


class BucketFileSystem(LocalFileSystem):
    """A folder that behaves as an object store: a file is there whole or not at all, prefixes need no making."""

    protocol = "bucket"
    fuse = None
    is_down = False
    delay_s = 0.0

    def __init__(self, **options):
        super().__init__(**{**options, "auto_mkdir": True})

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("bucket://"))

    def pipe_file(self, path, value, mode="overwrite", **options):
        if type(self).is_down:
            raise OSError("the network is gone")
        time.sleep(type(self).delay_s)
        super().pipe_file(f"{path}.partial", value, **options)
        if type(self).fuse is not None:
            type(self).fuse()
        self.mv(f"{path}.partial", path)


fsspec.register_implementation("bucket", BucketFileSystem, clobber=True)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(BucketFileSystem, "fuse", None)
    monkeypatch.setattr(BucketFileSystem, "is_down", False)
    monkeypatch.setattr(BucketFileSystem, "delay_s", 0.0)
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


class Sheets:
    """Stands for sample images: a file that depends on the step's tokens alone."""

    def __init__(self, folder):
        self.run, self.folder = None, folder / "samples"

    def draw(self, step, on_pass):
        on_pass()
        self.folder.mkdir(exist_ok=True)
        data = self.run.step_inputs.state.live.banks.detach().numpy().tobytes()
        (self.folder / f"step-{step:08d}.png").write_bytes(data)


def train(folder, bucket, *, stop_after=None, config=CONFIG, **runtime):
    """Train in a folder with uploads, to the end or for so many steps, and return the run."""
    folder.mkdir(exist_ok=True)
    uploads = CheckpointUploads(f"bucket://{bucket}/run")
    run = tiny.make_run(folder, config, RUNTIME.model_copy(update=runtime), uploads=uploads)
    run = dataclasses.replace(run, sheets=Sheets(folder))
    run.sheets.run = run
    try:
        with tiny.stopped_after(stop_after) as stop:
            run_steps(run, stop)
        return run
    except PreemptedError:
        return run
    finally:
        uploads.wait(60)
        run.step_inputs.denoiser.close()


def tokens(run):
    tensors = run.step_inputs.state.to_tensors()
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def metrics(folder):
    return (folder / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run = tiny.make_run(folder, CONFIG, RUNTIME)
    run_steps(run, StopRequest())
    run.step_inputs.denoiser.close()
    return tokens(run), metrics(folder)


def test_the_newest_and_the_best_are_there_and_no_others(tmp_path, bucket):
    run = train(tmp_path / "a", bucket)
    local = [path.name for path in list_checkpoints(run.checkpoints_path)]
    there = sorted(path.parent.name for path in (bucket / "run").glob("step-*/checkpoint.json"))
    assert there == local
    rows = b"".join(path.read_bytes() for path in sorted((bucket / "run" / "rows").iterdir()))
    assert rows == metrics(tmp_path / "a")
    run.uploads.remove()
    assert not (bucket / "run").exists()


def test_a_fresh_machine_goes_on_with_the_same_bytes(tmp_path, bucket, undisturbed, caplog):
    train(tmp_path / "a", bucket, stop_after=7)
    shutil.rmtree(tmp_path / "a")
    with caplog.at_level(logging.INFO):
        run = train(tmp_path / "b", bucket)
    assert "resuming at step 7" in caplog.text
    assert torch.equal(tokens(run), undisturbed[0])
    assert metrics(tmp_path / "b") == undisturbed[1]


def test_killed_in_the_middle_of_uploads_at_random_the_earlier_ones_stay_valid(tmp_path, bucket, undisturbed):
    for number in range(4):
        fuse = Fuse(random.randint(1, 9))

        def work(fuse=fuse, number=number):
            BucketFileSystem.fuse = fuse.wrap(lambda: None)
            train(tmp_path / f"machine-{number}", bucket)

        is_killed(work)
    run = train(tmp_path / "last", bucket)
    assert torch.equal(tokens(run), undisturbed[0])
    assert metrics(tmp_path / "last") == undisturbed[1]


def test_a_damaged_copy_is_passed_over_and_the_one_before_is_used(tmp_path, bucket, undisturbed, caplog):
    train(tmp_path / "a", bucket, stop_after=7)
    newest = max((bucket / "run").glob("step-*"))
    data = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(data[:-8])
    with caplog.at_level(logging.INFO):
        run = train(tmp_path / "b", bucket)
    assert f"{newest.name} is damaged" in caplog.text
    assert "resuming at step 6" in caplog.text
    assert torch.equal(tokens(run), undisturbed[0])
    assert metrics(tmp_path / "b") == undisturbed[1]


def test_a_place_that_is_down_does_not_stop_training_and_gets_all_of_it_later(tmp_path, bucket, monkeypatch, caplog):
    monkeypatch.setattr(BucketFileSystem, "is_down", True)
    train(tmp_path / "a", bucket, stop_after=7)
    assert "was not uploaded" in caplog.text
    assert not list((bucket / "run").glob("step-*"))
    monkeypatch.setattr(BucketFileSystem, "is_down", False)
    train(tmp_path / "a", bucket)
    rows = b"".join(path.read_bytes() for path in sorted((bucket / "run" / "rows").iterdir()))
    assert rows == metrics(tmp_path / "a")


@pytest.mark.parametrize("damage", ["truncated", "no state", "no meta"])
def test_a_damaged_local_checkpoint_leaves_no_trace_in_rows_and_copies(tmp_path, bucket, undisturbed, damage, caplog):
    """Stopped at 8, which is damaged then, and again at 10: between them it saves every step."""
    folder = tmp_path / "a"
    train(folder, bucket, stop_after=8)
    shutil.rmtree(bucket / "run" / "step-00000008")
    damaged = folder / "checkpoints" / "step-00000008"
    if damage == "truncated":
        (damaged / "state.safetensors").write_bytes((damaged / "state.safetensors").read_bytes()[:-8])
    else:
        (damaged / {"no state": "state.safetensors", "no meta": "checkpoint.json"}[damage]).unlink()
    train(folder, bucket, stop_after=4, checkpoint_every_steps=1)
    assert "damaged-step-00000008" in caplog.text
    names = sorted(path.name for path in (bucket / "run" / "rows").iterdir())
    assert [int(name[9:17]) for name in names][-4:] == [7, 8, 9, 10]
    run = train(tmp_path / "fresh", bucket)
    assert torch.equal(tokens(run), undisturbed[0])
    assert metrics(tmp_path / "fresh") == undisturbed[1]


def test_the_only_checkpoint_is_not_given_up_for_a_damaged_newer_one(tmp_path, bucket):
    config = CONFIG.model_copy(update={"validate_every_steps": 0})
    train(tmp_path / "a", bucket, stop_after=9, config=config, keep_checkpoints=1, checkpoint_every_steps=100)
    (tmp_path / "a" / "checkpoints" / "step-00000009" / "state.safetensors").write_bytes(b"")
    shutil.rmtree(bucket / "run")
    train(tmp_path / "a", bucket, stop_after=7, config=config, keep_checkpoints=1, checkpoint_every_steps=100)
    found = [path.name for path in list_checkpoints(tmp_path / "a" / "checkpoints")]
    assert found == ["step-00000007"]


def test_a_stop_waits_for_the_upload_before_and_then_for_its_own(tmp_path, bucket, monkeypatch):
    monkeypatch.setattr(checkpoint_copies, "SUBMIT_TIMEOUT_S", 0.0)
    monkeypatch.setattr(BucketFileSystem, "delay_s", 0.3)
    train(tmp_path / "a", bucket, stop_after=7)
    assert (bucket / "run" / "step-00000007" / "checkpoint.json").is_file()


def test_a_stop_does_not_wait_for_ever_and_says_what_is_not_there(tmp_path, bucket, monkeypatch, caplog):
    monkeypatch.setattr(checkpoint_copies, "SUBMIT_TIMEOUT_S", 0.0)
    monkeypatch.setattr(checkpoint_copies, "FINISH_TIMEOUT_S", 0.5)
    never = threading.Event()
    monkeypatch.setattr(BucketFileSystem, "fuse", lambda: never.wait(30))
    monkeypatch.setattr(CheckpointUploads, "wait", bounded(CheckpointUploads.wait))
    started = time.monotonic()
    train(tmp_path / "a", bucket, stop_after=3)
    assert time.monotonic() - started < 25
    assert "step 3 was not uploaded within 0.5 s" in caplog.text
    never.set()


def bounded(wait):
    return lambda uploads, timeout_s: wait(uploads, min(timeout_s, 1.0))


def test_a_fresh_machine_has_the_sample_images_drawn_before(tmp_path, bucket):
    config = CONFIG.model_copy(update={"sample_every_steps": 3})
    expected = train(tmp_path / "undisturbed", bucket, config=config)
    expected.uploads.remove()
    train(tmp_path / "a", bucket, stop_after=7, config=config)
    shutil.rmtree(tmp_path / "a")
    train(tmp_path / "b", bucket, config=config)
    assert sheets(tmp_path / "b") == sheets(tmp_path / "undisturbed")
    assert len(sheets(tmp_path / "b")) == 5


def sheets(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "samples").iterdir())}


def test_a_machine_that_dies_while_it_fetches_leaves_nothing_out(tmp_path, bucket, undisturbed):
    train(tmp_path / "a", bucket, stop_after=7)
    for number in range(1, 6):
        fuse = Fuse(number)

        def work(fuse=fuse):
            for name in ("write_atomically", "read_checkpoint"):
                setattr(checkpoint_copies, name, fuse.wrap(getattr(checkpoint_copies, name)))
            CheckpointUploads._read = fuse.wrap(CheckpointUploads._read)
            train(tmp_path / "b", bucket, stop_after=1)

        assert is_killed(work)
    run = train(tmp_path / "b", bucket)
    assert torch.equal(tokens(run), undisturbed[0])
    assert metrics(tmp_path / "b") == undisturbed[1]


def test_a_newer_local_checkpoint_wins(tmp_path, bucket, undisturbed, caplog):
    train(tmp_path / "a", bucket, stop_after=4)
    shutil.copytree(bucket / "run", tmp_path / "old")
    train(tmp_path / "a", bucket, stop_after=5)
    shutil.rmtree(bucket / "run")
    shutil.copytree(tmp_path / "old", bucket / "run")
    with caplog.at_level(logging.INFO):
        run = train(tmp_path / "a", bucket)
    assert "resuming at step 9" in caplog.text
    assert torch.equal(tokens(run), undisturbed[0])
    rows = b"".join(path.read_bytes() for path in sorted((bucket / "run" / "rows").iterdir()))
    assert rows == metrics(tmp_path / "a") == undisturbed[1]


def test_copies_of_another_run_are_refused(tmp_path, bucket):
    train(tmp_path / "a", bucket, stop_after=4)
    with pytest.raises(DataError, match="another run"):
        train(tmp_path / "b", bucket, config=CONFIG.model_copy(update={"seed": 5}))


def test_an_exported_adapter_is_refused_and_offered_as_a_start(tmp_path, bucket):
    (bucket / "run").mkdir()
    (bucket / "run" / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="exported adapter") as error:
        train(tmp_path / "a", bucket)
    assert "train.init_from" in error.value.fix


def test_local_folders_serve_as_well(tmp_path):
    uploads = CheckpointUploads(str(tmp_path / "copies" / "run"))
    run = tiny.make_run(tmp_path / "a", CONFIG, RUNTIME, uploads=uploads)
    (tmp_path / "a").mkdir()
    run_steps(run, StopRequest())
    run.step_inputs.denoiser.close()
    uploads.wait(60)
    assert list((tmp_path / "copies" / "run").glob("step-*/checkpoint.json"))
    assert json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 12
