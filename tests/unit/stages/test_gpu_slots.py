"""Who may use which GPU: by number and name, through the parent's own choice, without overlap and without deadlock."""

import threading
import time

import pytest

from softalign.config import Runtime
from softalign.errors import ConfigError, LeaseLostError
from softalign.stages import gpu_slots
from softalign.stages.gpu_slots import gpus_of, num_slots, visible_devices
from softalign.store import leases
from softalign.store.leases import Contender
from softalign.store.store import Store


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    for name in ("SOFTALIGN_GPU_SLOTS", "CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SOFTALIGN_NODE", "here")
    monkeypatch.setattr(gpu_slots, "_num_devices", lambda: 0)
    monkeypatch.setattr(leases, "POLLS_PER_TTL", 6000)
    monkeypatch.setattr(gpu_slots, "POLLS_PER_TTL", 6000)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


@pytest.mark.parametrize(
    ("chosen", "devices"),
    [(None, ("0", "1")), ("3, 5", ("3", "5")), ("GPU-a,MIG-b", ("GPU-a", "MIG-b")), ("", ()), ("1,-1,2", ("1",))],
)
def test_what_is_visible_is_what_cuda_would_see(monkeypatch, chosen, devices):
    monkeypatch.setattr(gpu_slots, "_num_devices", lambda: 2)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_devices() == devices


@pytest.mark.parametrize(
    ("said", "device", "number"),
    [("", "auto", 2), ("", "cpu", 0), ("3", "cpu", 3), ("1", "cuda", 1), ("0", "auto", 0)],
)
def test_how_many_slots_there_are(monkeypatch, said, device, number):
    monkeypatch.setattr(gpu_slots, "_num_devices", lambda: 2)
    monkeypatch.setenv("SOFTALIGN_GPU_SLOTS", said)
    assert num_slots(Runtime(device=device)) == number


def test_gpus_are_counted_without_torch(monkeypatch, tmp_path):
    monkeypatch.undo()
    query = tmp_path / "nvidia-smi"
    lines = ("GPU 0: A (UUID: GPU-1)", "  MIG 1g Device 0:", "GPU 1: A (UUID: GPU-2)")
    query.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    query.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices() == ("0", "1")


def test_the_processes_see_the_gpus_that_are_held_and_others_the_rest(monkeypatch, store):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-b,6")
    with gpus_of(store, Runtime(), 2, "train") as first, gpus_of(store, Runtime(), 1, "evaluate") as second:
        assert first.environment == {"CUDA_VISIBLE_DEVICES": "4,GPU-b"}
        assert second.environment == {"CUDA_VISIBLE_DEVICES": "6"}
        assert [lease.held.name for lease in first.leases] == ["gpu/here/4", "gpu/here/GPU-b"]
        assert Contender(store.uri, "gpu/here/6").attempt() is None
    assert Contender(store.uri, "gpu/here/6").attempt() is not None


def test_more_slots_than_gpus_share_them(monkeypatch, store):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("SOFTALIGN_GPU_SLOTS", "2")
    with gpus_of(store, Runtime(), 1, "train") as first, gpus_of(store, Runtime(), 1, "encode") as second:
        assert first.environment == second.environment == {"CUDA_VISIBLE_DEVICES": "7"}


def test_what_cannot_be_is_refused_and_what_is_not_limited_holds_nothing(monkeypatch, store):
    monkeypatch.setenv("SOFTALIGN_GPU_SLOTS", "1")
    with (
        pytest.raises(ConfigError, match=r"runtime\.num_processes of 1 at most"),
        gpus_of(store, Runtime(), 2, "train"),
    ):
        pass
    monkeypatch.setenv("SOFTALIGN_GPU_SLOTS", "one")
    with pytest.raises(ConfigError, match="SOFTALIGN_GPU_SLOTS"), gpus_of(store, Runtime(), 1, "train"):
        pass
    monkeypatch.delenv("SOFTALIGN_GPU_SLOTS")
    with gpus_of(store, Runtime(), 2, "train") as turn:
        assert (turn.leases, turn.environment) == ((), {})


def test_a_slot_that_is_lost_ends_the_work(monkeypatch, store):
    monkeypatch.setenv("SOFTALIGN_GPU_SLOTS", "1")
    with gpus_of(store, Runtime(), 1, "train") as turn:
        turn.require()
        monkeypatch.setattr(turn.leases[0], "_is_followed", True)
        with pytest.raises(LeaseLostError, match="gpu/here/0"):
            turn.require()


def test_runs_that_need_one_or_several_never_share_and_all_get_their_turn(monkeypatch, store):
    monkeypatch.setenv("SOFTALIGN_GPU_SLOTS", "3")
    busy, most, done, lock = set(), [], [], threading.Lock()

    def work(number):
        for _ in range(3):
            with gpus_of(store, Runtime(), number, f"{number} GPUs") as turn:
                names = {lease.held.name for lease in turn.leases}
                with lock:
                    assert len(names) == number
                    assert not busy & names
                    busy.update(names)
                    most.append(len(busy))
                time.sleep(0.01)
                with lock:
                    busy.difference_update(names)
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 1, 2, 2, 3)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert sorted(done) == [1, 1, 2, 2, 3]
    assert max(most) == 3


def test_a_wait_says_for_whom(monkeypatch, store, caplog):
    monkeypatch.setenv("SOFTALIGN_GPU_SLOTS", "1")
    held = Contender(store.uri, "gpu/here/0").attempt()
    threading.Timer(0.3, held.release).start()
    with caplog.at_level("INFO"), gpus_of(store, Runtime(), 1, "encode"):
        pass
    assert "encode waits for 1 of 1 GPUs (held: gpu/here/0 by here, process" in caplog.text
