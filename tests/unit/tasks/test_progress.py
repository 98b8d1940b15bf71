"""Progress at the orchestrator: how often it is posted, and that no server can hold or end the work."""

import threading
from uuid import uuid4

import pytest

from softalign.processes.progress import StageProgress
from tasks import progress
from tasks.progress import UPDATE_INTERVAL_S, Artifacts, ProgressArtifacts
from tests.clock import Clock


@pytest.fixture
def clock():
    return Clock()


def steps_at(done, **changes):
    return StageProgress(**{"stage": "train", "unit": "step", "done": done, "total": 100, "elapsed_s": 1.0, **changes})


def arrived(listener):
    """Wait until what was posted has arrived."""
    listener._join()


def test_an_artifact_is_updated_at_an_interval_and_at_the_end(clock):
    posted = []
    listener = ProgressArtifacts(posted.append, clock)
    for done in range(101):
        listener(steps_at(done))
        arrived(listener)
        clock.now += UPDATE_INTERVAL_S / 32
    listener(steps_at(100, is_last=True))
    assert [entry.done for entry in posted] == [0, 32, 64, 96, 100]


def test_a_server_that_fails_fails_nothing_and_the_next_update_goes_there(clock):
    posted = []

    def post(entry):
        if entry.done == 0:
            raise ConnectionError("a hiccup")
        posted.append(entry.done)

    listener = ProgressArtifacts(post, clock)
    listener(steps_at(0))
    arrived(listener)
    clock.now = UPDATE_INTERVAL_S
    listener(steps_at(1))
    listener(steps_at(2, is_last=True))
    assert posted == [1, 2]


def test_a_server_that_hangs_holds_nobody(clock, monkeypatch):
    monkeypatch.setattr(progress, "LAST_UPDATE_TIMEOUT_S", 0.05)
    posted, release = [], threading.Event()

    def post(entry):
        posted.append(entry.done)
        release.wait(20)

    listener = ProgressArtifacts(post, clock)
    for done in range(100):
        listener(steps_at(done))
        clock.now += UPDATE_INTERVAL_S
    listener(steps_at(100, is_last=True))
    assert posted == [0]
    release.set()


def test_a_count_is_one_artifact_with_a_history_by_recipe_stage_and_unit(monkeypatch):
    created, updated = [], []

    def create(percent, key, description):
        created.append((percent, key, description))
        return uuid4()

    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "update_progress_artifact", lambda _id, percent, description: updated.append(percent))
    post = Artifacts("My cats")
    post(steps_at(0))
    post(steps_at(25))
    post(steps_at(100))
    post(steps_at(7, stage="evaluate (base)", unit="images", total=None))
    assert created == [
        (0.0, "my-cats-train-step", "step 0/100"),
        (0.0, "my-cats-evaluate-base-images", "images 7  7.0/s"),
    ]
    assert updated == [25.0, 100.0]
