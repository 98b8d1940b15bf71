"""Whose turn it is: equal requests are done once, and stages with a model never share a GPU slot."""

import threading
import time

import pytest

from softalign.config import load_recipe
from softalign.stages import work
from softalign.stages.jobs import from_json
from softalign.stages.turns import turn_of
from softalign.store import leases
from softalign.store.leases import Contender
from softalign.store.store import Store
from tests.sample_records import ENCODED
from tests.steps import run_stage

SCENES = "curation.sources=[{{type: shapes, num_scenes: 12, captions_per_scene: 1, seed: {seed}}}]"


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A store that is taken for one of several machines."""
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(leases, "TTL_S", 0.4)
    monkeypatch.setattr(Store, "is_local", False)
    return Store(str(tmp_path / "store"))


def test_who_has_the_turn_holds_a_lease_and_who_waits_goes_on_once_it_is_done(remote):
    with turn_of(remote, "curate", "k", lambda: False) as (lease,):
        assert lease.held.name == "stages/curate/k"
        looks = iter([False, True])
        with turn_of(remote, "curate", "k", lambda: next(looks)) as nothing:
            assert nothing == ()
        assert not lease.is_lost
    assert Contender(remote.uri, "stages/curate/k").attempt() is not None


def test_runs_with_one_gpu_slot_take_turns_and_equal_ones_work_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_GPU_SLOTS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    store, made, spans, errors = Store(str(tmp_path)), [], [], []

    def encode(_module, request, *, label, common, require, **_options):
        begun, job = time.monotonic(), from_json(request.encode())
        require()
        assert (label, common) == ("encode", {"CUDA_VISIBLE_DEVICES": "GPU-a"})
        time.sleep(0.2)
        folder = store.work_path("encode", job.key)
        record = store.publish(ENCODED.model_copy(update={"stage_key": job.key}), folder)
        spans.append((begun, time.monotonic()))
        return record.model_dump(mode="json")

    monkeypatch.setattr(work, "run_child", encode)

    def run(seed):
        try:
            recipe = load_recipe("shapes", [SCENES.format(seed=seed), "curation.val_share=0"])
            dataset = run_stage(recipe, "curate", store).record
            made.append(run_stage(recipe, "encode", store, dataset))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2, 1)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors
    assert sorted(result.is_reused for result in made) == [False, False, True]
    (_, first_end), (second_begin, _) = sorted(spans)
    assert first_end <= second_begin
