"""Two machines, one S3 store: work is done once, a lost machine is followed, and one that slept publishes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from softalign.artifacts import DatasetManifest
from softalign.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
MACHINE = """
import json, pathlib, sys, time
from softalign.config import load_recipe
from softalign.data.curation import pipeline
from softalign.errors import SoftAlignError
from softalign.store import leases
from softalign.store.holder import Holder
from softalign.store.store import Store
from tests.steps import run_stage

store, folder = Store(sys.argv[1]), pathlib.Path(sys.argv[2])
leases.TTL_S = 3.0
Holder.is_dead = False  # as another machine sees it
curate = pipeline.curate

def counted(*given):
    (folder / "works").touch()
    while not (folder / "may go on").exists():
        time.sleep(0.05)
    return curate(*given)

pipeline.curate = counted
recipe = load_recipe("shapes", ["curation.sources=[{type: shapes, num_scenes: 8, seed: 1}]", "curation.val_share=0"])
try:
    result = run_stage(recipe, "curate", store)
    print(json.dumps([result.is_reused, result.record.digest, result.record.stage_key]))
except SoftAlignError as error:
    print(json.dumps([type(error).__name__, error.is_retriable]))
"""


class Machine:
    """A process with a cache of its own that curates in a store."""

    def __init__(self, stack, store_uri, folder):
        folder.mkdir()
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", MACHINE, store_uri, str(folder)],
            env={**os.environ, **stack.exports, "SOFTALIGN_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def works(self):
        return (self.folder / "works").exists()

    def go_on(self):
        (self.folder / "may go on").touch()

    def answer(self):
        self.go_on()
        return json.loads(self.process.communicate(timeout=90)[0])


def wait_until(is_so):
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def start(stack, tmp_path):
    store_uri, started = f"s3://softalign/{uuid.uuid4().hex}", []

    def start():
        started.append(Machine(stack, store_uri, tmp_path / str(len(started))))
        return started[-1]

    start.store_uri = store_uri
    yield start
    for machine in started:
        machine.process.kill()
        machine.process.communicate()


def test_two_machines_do_the_work_once(start):
    machines = [start(), start()]
    wait_until(lambda: any(machine.works for machine in machines))
    time.sleep(4.0)  # longer than a lease lives without its renewals
    for machine in machines:  # whichever works: the other one waits for it
        machine.go_on()
    answers = [machine.answer() for machine in machines]
    assert sorted(answer[0] for answer in answers) == [False, True]
    assert answers[0][1:] == answers[1][1:]
    assert sum(machine.works for machine in machines) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "asleep"])
def test_a_lost_machine_is_followed_and_one_that_slept_publishes_nothing(start, stack, monkeypatch, number):
    lost = start()
    wait_until(lambda: lost.works)
    lost.process.send_signal(number)
    following = start()
    wait_until(lambda: following.works)
    if number == signal.SIGSTOP:
        lost.process.send_signal(signal.SIGCONT)
        assert lost.answer() == ["LeaseLostError", True]
    is_reused, digest, key = following.answer()
    assert not is_reused
    for name, value in stack.exports.items():
        monkeypatch.setenv(name, value)
    assert Store(start.store_uri).find(DatasetManifest, key).digest == digest
