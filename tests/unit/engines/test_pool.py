"""The process pool: what the engines' tests ask, who dies of what, who is left behind, and bytes that wait."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import count, islice
from pathlib import Path

import psutil
import pytest

from softalign.config import Runtime
from softalign.config.engine import LocalEngine
from softalign.engines import cores, opening
from softalign.engines import pool as pool_module
from softalign.engines.in_flight import InFlight
from softalign.engines.opening import open_engine
from softalign.engines.pool import CALLS_AHEAD, ProcessPool
from softalign.engines.work import InProcess, Work
from softalign.errors import DataError, WorkerDiedError
from tests.killing import children_at
from tests.unit.engines import works

WORKER = "softalign.engines.worker"


@pytest.fixture(scope="module")
def pool():
    made = ProcessPool(2, items_per_call=2)
    yield made
    made.stop()


@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_come_in_the_items_order(pool, num_threads):
    assert list(pool.map(Work(works.doubler, num_threads=num_threads), range(53))) == [2 * i for i in range(53)]
    assert list(pool.map(Work(works.doubler), ())) == []


def test_several_processes_do_it_and_none_is_this_one(pool):
    done_by = set(pool.map(Work(works.sleeper), range(8)))
    assert len(done_by) == 2
    assert os.getpid() not in done_by


@pytest.mark.parametrize("num_threads", [1, 3])
def test_an_error_of_ours_arrives_as_it_was_raised_at_its_items_turn(pool, num_threads):
    results = pool.map(Work(works.refuser, ("ours",), num_threads=num_threads), range(9))
    assert list(islice(results, 5)) == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="Item 5 cannot be used") as caught:
        next(results)
    error = caught.value
    assert (error.expected, error.found, error.where, error.fix) == ("another", "5", "here", "leave it")


def test_another_error_keeps_its_class_and_its_workers_stack(pool):
    with pytest.raises(NotADirectoryError) as caught:
        list(pool.map(Work(works.refuser, ("other",)), range(9)))
    assert "tests/unit/engines/works.py" in caught.value.__notes__[0]


def test_items_are_taken_some_ahead_and_not_all_and_leaving_early_leaves_nobody():
    early = ProcessPool(2, items_per_call=2)
    taken = []
    results = early.map(Work(works.doubler, num_threads=3), (taken.append(i) or i for i in count()))
    assert list(islice(results, 3)) == [0, 2, 4]
    assert len(taken) <= CALLS_AHEAD * 2 * 3 * 2 + 2
    mine = children_at(WORKER)
    results.close()
    assert not [worker for worker in children_at(WORKER) if worker not in mine]
    assert list(early.map(Work(works.doubler), range(3))) == [0, 2, 4]
    early.stop()


def test_workers_are_told_how_many_share_the_machine(pool):
    assert next(pool.map(Work(works.sharer, share_machine=works.share), [0])) == [2]
    assert works.SHARED == []


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_worker_that_is_killed_is_replaced_and_its_items_are_done_again(pool, tmp_path, caplog, num_threads):
    marker = tmp_path / "killed"
    with caplog.at_level(logging.WARNING):
        work = Work(works.dier, (str(marker),), num_threads=num_threads)
        assert list(pool.map(work, range(40))) == list(range(40))
    assert marker.exists()
    assert "signal SIGKILL" in caplog.text


def test_an_item_that_kills_each_worker_is_named(pool):
    work = Work(works.dier_at, (13,), num_threads=3, name_of="picture {}".format)
    results = pool.map(work, range(40))
    assert list(islice(results, 13)) == list(range(13))
    with pytest.raises(WorkerDiedError, match="picture 13") as caught:
        next(results)
    assert "signal SIGKILL" in caught.value.found
    assert "some last words" in caught.value.found
    assert caught.value.is_retriable


def test_after_an_error_no_further_worker_is_started(monkeypatch):
    started, ends, threads = [], [], set(threading.enumerate())
    make, end = pool_module.WorkerProcess, pool_module._Run.end
    monkeypatch.setattr(pool_module, "WorkerProcess", lambda number: started.append(make(number)) or started[-1])
    monkeypatch.setattr(pool_module._Run, "end", lambda run: (end(run), ends.append(len(started))))
    failing = ProcessPool(2, items_per_call=1)
    with pytest.raises(WorkerDiedError):
        list(failing.map(Work(works.always_dier, num_threads=4), range(40)))
    assert len(started) <= ends[0] + 3, "of the two workers and the one alone each may have had one on its way"
    assert set(threading.enumerate()) <= threads
    assert all(worker._child.returncode is not None for worker in started)


def test_bytes_that_wait_are_bounded_and_the_next_in_order_never_waits():
    flight = InFlight(limit_bytes=100)
    flight.add(100)
    assert flight.is_full
    flight.turn_of(7)
    flight.wait(7)  # would hang
    flight.add(-1)
    flight.wait(8)
    flight.add(1)
    flight.end()
    flight.wait(9)


def test_large_results_are_sent_in_parts_and_do_not_pile_up(monkeypatch):
    monkeypatch.setattr("softalign.engines.in_flight.InFlight.__init__.__defaults__", (4 << 20,))
    most = []
    add = InFlight.add

    def noted(self, num_bytes):
        add(self, num_bytes)
        most.append(self._used_bytes)

    monkeypatch.setattr(InFlight, "add", noted)
    pool = ProcessPool(2)
    results = []
    for result in pool.map(Work(works.large, (600_000,), num_threads=4), range(120)):
        results.append(result[0])
        time.sleep(0.002)
    pool.stop()
    assert results == list(range(120))
    assert max(most) < (4 << 20) + 8 * (2 << 20)  # and what each of 8 connections had under way
    assert most[-1] == 0


def test_auto_starts_nobody_for_a_short_work(monkeypatch):
    monkeypatch.setattr(opening, "num_cores", lambda: 2)
    before = children_at(WORKER)
    with open_engine(Runtime()) as engine:
        assert list(engine.map(Work(works.doubler, num_threads=4), range(50))) == [2 * i for i in range(50)]
        assert children_at(WORKER) == before
        monkeypatch.setattr(engine._pool, "_starting_after_s", 0.1)
        done_by = list(engine.map(Work(works.sleeper, num_threads=4), range(60)))
        assert done_by[0] == os.getpid() != done_by[-1]
        assert done_by == sorted(done_by, key=lambda pid: pid != os.getpid())
        assert len(done_by) == 60
    assert children_at(WORKER) == before


def test_models_go_to_several_processes_where_that_is_asked_for():
    for number, is_elsewhere in ((1, False), ("auto", False), (2, True)):
        with open_engine(Runtime(device="cpu", engine=LocalEngine(num_processes=number))) as engine:
            done_by = set(engine.map(Work(works.sleeper, uses_model=True), range(3)))
        assert (os.getpid() not in done_by) == is_elsewhere
    with open_engine(Runtime(device="cuda", engine=LocalEngine(num_processes=2))) as engine:
        assert set(engine.map(Work(works.sleeper, uses_model=True), range(3))) == {os.getpid()}


def test_one_process_is_this_one():
    with open_engine(Runtime(engine=LocalEngine(num_processes=1))) as engine:
        assert isinstance(engine, InProcess)


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_a_containers_quota_bounds_the_cores(tmp_path, monkeypatch, quota, expected):
    limit = tmp_path / "cpu.max"
    limit.write_text(quota)
    monkeypatch.setattr(cores, "CGROUP_LIMIT", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    assert cores.num_cores() == expected


PARENT = """
from softalign.engines.pool import ProcessPool
from softalign.engines.work import Work
from tests.unit.engines import works
for pid in ProcessPool(2).map(Work(works.sleeper, num_threads=4), iter(int, 1)):
    print(pid, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_parent_that_ends_leaves_no_worker(number):
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root
    ) as parent:
        parent.stdout.readline()
        workers = children_at(WORKER, psutil.Process(parent.pid))
        assert len(workers) == 2
        parent.send_signal(number)
        parent.wait(20)
    assert not psutil.wait_procs(workers, timeout=10)[1]
