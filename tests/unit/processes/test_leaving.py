"""Commands that are told to stop, as processes: one line, exit code 75, nobody left."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from softalign.processes import leaving

BEGINNING = """
import os, signal, subprocess, sys, time
from softalign.processes import leaving as stopping
from softalign.processes.leaving import leaving_in_order

def child(*words):
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words])

def ready():
    print("ready", flush=True)
"""


def start(body, **options):
    """Start a script in a session of its own, as a terminal's foreground group, and wait until it says it is ready."""
    script = BEGINNING + textwrap.dedent(body)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, **options)
    assert process.stdout.readline() == "ready\n"
    return process


def outcome(process, timeout_s=20):
    """Return the exit code and what was said; nobody of the group is left."""
    _, err = process.communicate(timeout=timeout_s)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return process.returncode, err


@pytest.mark.parametrize("number", leaving.STOP_SIGNALS)
def test_a_stop_is_one_line_whatever_is_said_and_raised_on_the_way_out(number):
    process = start("""
        with leaving_in_order(lambda: "all of it is kept"):
            try:
                ready(); time.sleep(60)
            finally:
                print("Crash detected!", file=sys.stderr, flush=True)
                raise RuntimeError("the server is gone")
    """)
    os.killpg(process.pid, number)
    assert outcome(process) == (75, "all of it is kept\n")


def test_a_way_out_that_takes_too_long_is_ended_and_children_with_it():
    process = start("""
        stopping.LEAVING_S = 0.5
        with leaving_in_order(lambda: "kept"):
            with stopping.shielded():
                child("softalign.stages.worker")
            try:
                ready(); time.sleep(60)
            finally:
                time.sleep(60)
    """)
    os.killpg(process.pid, signal.SIGINT)
    assert outcome(process) == (75, "kept\n")


def test_the_end_of_the_process_is_watched_too_when_the_block_has_been_left():
    process = start("""
        import atexit
        stopping.LEAVING_S = 1.5
        with leaving_in_order(lambda: "kept"):
            atexit.register(time.sleep, 60)
            ready(); time.sleep(60)
    """)
    os.killpg(process.pid, signal.SIGINT)
    assert outcome(process) == (75, "kept\n")


def test_a_second_ctrl_c_leaves_at_once():
    process = start("""
        with leaving_in_order(lambda: "kept"):
            with stopping.shielded():
                child()
            try:
                ready(); time.sleep(60)
            finally:
                time.sleep(60)
    """)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(leaving.ONE_KEYPRESS_S + 0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert outcome(process, timeout_s=5) == (75, f"{leaving.SOMETHING_KEPT}\n")


def test_one_ctrl_c_that_a_wrapper_hands_on_and_sigterm_behind_it_count_once():
    process = start("""
        with leaving_in_order(lambda: "kept"):
            try:
                ready(); time.sleep(60)
            finally:
                time.sleep(1)
    """)
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
        time.sleep(0.1)
    assert outcome(process) == (75, "kept\n")


def test_after_sigterm_a_child_has_time_for_its_checkpoint():
    process = start("""
        stopping.LEAVING_S = 0.2
        with leaving_in_order(lambda: "kept"):
            working = child("softalign.stages.worker")
            try:
                ready(); time.sleep(60)
            finally:
                time.sleep(1.5)
                print("checkpoint", flush=True)
                working.kill()
    """)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (75, "checkpoint\n", "kept\n")


@pytest.mark.parametrize("describe", ["1 / 0", "time.sleep(60)"])
def test_where_nothing_can_be_found_out_a_line_is_said_all_the_same(describe):
    process = start(f"""
        stopping.DESCRIBING_S = 0.3
        with leaving_in_order(lambda: {describe}):
            ready(); time.sleep(60)
    """)
    os.killpg(process.pid, signal.SIGINT)
    assert outcome(process) == (75, f"{leaving.SOMETHING_KEPT}\n")


def test_what_a_process_was_started_to_ignore_stays_ignored():
    process = start(
        """
        with stopping.leaving_at_once(), leaving_in_order(lambda: "kept"):
            ready(); time.sleep(1)
        """,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    os.killpg(process.pid, signal.SIGHUP)
    assert outcome(process) == (0, "")


def test_a_signal_between_two_programs_of_one_process_is_not_lost():
    process = start("""
        stopping.hold_signals()
        ready(); time.sleep(0.5)
        after = "from softalign.processes.leaving import leave_at_once; leave_at_once(); import time; time.sleep(60)"
        os.execv(sys.executable, [sys.executable, "-c", after])
    """)
    os.killpg(process.pid, signal.SIGINT)
    assert outcome(process) == (75, f"{leaving.NOTHING_BEGUN}\n")


def test_a_shielded_child_hears_sigterm_alone():
    with leaving.shielded():
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"], stdout=-1
        )
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.3)
    child.terminate()
    assert child.wait(10) == -signal.SIGTERM


def test_a_block_that_ends_leaves_signals_threads_and_files_as_they_were():
    def seen():
        handlers = [signal.getsignal(number) for number in leaving.STOP_SIGNALS]
        return handlers, threading.active_count(), psutil.Process().num_fds()

    before = seen()
    for _ in range(2):
        with leaving.leaving_at_once(), leaving.leaving_in_order(str):
            assert seen() != before
        with pytest.raises(KeyError), leaving.leaving_in_order(str):
            raise KeyError
    assert seen() == before
    assert signal.set_wakeup_fd(-1) == -1


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone():
    found = []

    def work():
        with leaving.leaving_at_once(), leaving.leaving_in_order(str):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
