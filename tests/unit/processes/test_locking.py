"""One attempt at a time: who waits says so, and the lock goes with its holder, however it ends."""

import logging
import os
import shutil
import signal
import threading
import time

import pytest

from softalign.errors import TrainingError
from softalign.processes import locking
from tests.killing import is_killed


def test_one_at_a_time_and_the_waiting_one_says_what_it_waits_for(tmp_path, caplog):
    caplog.set_level(logging.INFO, "softalign")
    order, has_begun = [], threading.Event()

    def hold():
        with locking.exclusive(tmp_path / "run"):
            has_begun.set()
            time.sleep(0.4)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    has_begun.wait()
    with locking.exclusive(tmp_path / "run"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert [record.getMessage() for record in caplog.records] == [
        f"Waiting for another process that works on this very run: {tmp_path / 'run'}"
    ]


def test_who_waits_waits_as_long_as_the_holder_lives_and_says_so_again(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "softalign")
    monkeypatch.setattr(locking, "SAID_EVERY_S", 0.1)
    has_begun = threading.Event()

    def hold():
        with locking.exclusive(tmp_path / "run"):
            has_begun.set()
            time.sleep(0.7)

    thread = threading.Thread(target=hold)
    thread.start()
    has_begun.wait()
    with locking.exclusive(tmp_path / "run"):
        pass
    thread.join()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("Waiting for another process") and len(lines) > 2
    assert all(line.startswith("Still waiting") for line in lines[1:])


def test_a_lock_that_is_not_given_up_is_an_error_with_its_place(tmp_path):
    with (
        locking.exclusive(tmp_path / "run"),
        pytest.raises(TrainingError, match="Another process is working on this very run") as refused,
        locking.exclusive(tmp_path / "run", timeout_s=0.3),
    ):
        pytest.fail("held twice")
    assert (refused.value.expected, refused.value.where) == ("it to stop within 0.3 s", str(tmp_path / "run"))
    with locking.exclusive(tmp_path / "run", timeout_s=0.0):  # and is free after its holder's end
        pass


def test_a_killed_holder_leaves_the_lock_free(tmp_path):
    def work():
        with locking.exclusive(tmp_path / "run"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert is_killed(work)
    with locking.exclusive(tmp_path / "run", timeout_s=0.0):
        pass


def test_a_folder_that_its_holder_removes_is_locked_anew_by_who_waited(tmp_path):
    has_begun = threading.Event()

    def hold():
        with locking.exclusive(tmp_path / "run"):
            has_begun.set()
            time.sleep(0.4)
            shutil.rmtree(tmp_path / "run")
            time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    has_begun.wait()
    with locking.exclusive(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").exists()
        with pytest.raises(TrainingError), locking.exclusive(tmp_path / "run", timeout_s=0.0):
            pytest.fail("held twice")
    thread.join()
