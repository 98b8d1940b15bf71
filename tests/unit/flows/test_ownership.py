"""Whether the process that works on a run still lives, with real processes."""

import os
import subprocess
import sys

import psutil
import pytest

from flows.server.decision import Owner
from flows.server.ownership import MACHINE, RUN_VARIABLE, WORKER_BORN, WORKER_PID, is_own, owner_of, signature

RUN = "0b5c"


@pytest.fixture
def child():
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, RUN_VARIABLE: RUN}
    )
    yield process
    process.kill()
    process.wait()


def test_a_run_of_the_present_worker_has_an_owner():
    assert owner_of(RUN, signature(), None) is Owner.ALIVE
    assert is_own(signature())


@pytest.mark.parametrize("changed", [{WORKER_BORN: "1.0"}, {WORKER_PID: "999999999"}])
def test_a_worker_that_is_gone_owns_nothing_even_if_its_id_is_used_again(changed):
    assert owner_of(RUN, {**signature(), **changed}, None) is Owner.GONE
    assert not is_own({**signature(), **changed})


def test_a_worker_outlives_a_clock_that_is_set(monkeypatch):
    signed, boot_time = signature(), psutil.boot_time()
    # the system counts it back from the time of day
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot_time + 600)
    assert owner_of(RUN, signed, None) is Owner.ALIVE


def test_an_orphan_keeps_its_run_until_it_ends(child):
    orphaned = {**signature(), WORKER_BORN: "1.0"}
    assert owner_of(RUN, orphaned, str(child.pid)) is Owner.ALIVE
    assert owner_of("another run", orphaned, str(child.pid)) is Owner.GONE
    child.kill()
    child.wait()
    assert owner_of(RUN, orphaned, str(child.pid)) is Owner.GONE


def test_process_ids_of_other_machines_say_nothing():
    assert owner_of(RUN, {**signature(), MACHINE: "another machine"}, str(os.getpid())) is Owner.ELSEWHERE


@pytest.mark.parametrize("labels", [{}, {MACHINE: ""}])
def test_a_run_that_none_of_our_workers_signed(labels):
    assert owner_of(RUN, labels, None) is Owner.UNKNOWN
