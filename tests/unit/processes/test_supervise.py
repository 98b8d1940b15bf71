"""A child process is relayed, watched, and its errors arrive as what they were."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from softalign.errors import CompatibilityError, LeaseLostError, PreemptedError, WorkerDiedError
from softalign.processes import launch, supervise
from softalign.processes.messages import Failure
from softalign.processes.progress import listening


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Replace the worker module by a script: returns a runner that takes the script's body."""

    def run(body, stall_timeout_s=20.0, on_line=lambda _: None, request="{}", **options):
        script = tmp_path / "child.py"
        script.write_text(
            "import json, os, sys, time, signal\nrequest = sys.stdin.read()\n"
            "def send(kind, **fields): print(json.dumps({'kind': kind, **fields}), flush=True)\n"
            + textwrap.dedent(body)
        )
        real = subprocess.Popen

        def popen(command, **given):
            return real([sys.executable, "-u", str(script), *command[-1:]], **given)

        monkeypatch.setattr(launch.subprocess, "Popen", popen)
        lines = []

        def keep(line):
            lines.append(line)
            on_line(line)

        try:
            return supervise.run_child(
                "worker", request, label="train", stall_timeout_s=stall_timeout_s, on_line=keep, **options
            )
        finally:
            run.lines = lines

    return run


def test_lines_are_relayed_and_the_result_returned(child):
    result = child(
        "print('one'); print('two', file=sys.stderr); send(kind='log', text='three'); print()\n"
        "print('\\x1b[1mfour\\x1b[0m 10%\\rfour 20%', file=sys.stderr)\n"
        "send(kind='result', payload={'record': [request, int(sys.argv[-1])]})",
        request="what is asked" * 20_000,
    )
    assert result == {"record": ["what is asked" * 20_000, os.getpid()]}
    assert sorted(child.lines) == ["four 10%", "four 20%", "one", "three", "two"]


def test_children_have_what_they_share_in_their_environment(child, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    body = "send(kind='result', payload=os.environ['CUDA_VISIBLE_DEVICES'])"
    assert child(body, common={"CUDA_VISIBLE_DEVICES": "1"}) == "1"


def test_a_child_whose_lease_is_lost_leaves_a_checkpoint_and_the_error_is_the_leases(child, tmp_path):
    def require():
        if child.is_begun:
            raise LeaseLostError("followed")

    child.is_begun = False
    body = f"""
        def stop(*_):
            open({str(tmp_path / "checkpoint")!r}, "w").close()
            os._exit(75)
        signal.signal(signal.SIGTERM, stop)
        print("begun", flush=True)
        time.sleep(60)
    """
    with pytest.raises(LeaseLostError):
        child(body, require=require, on_line=lambda _: setattr(child, "is_begun", True))
    assert (tmp_path / "checkpoint").exists()


PROGRESS = "send(kind='progress', stage='mine', unit='step', done={}, total=9, elapsed_s=2.0)\n"


def test_progress_is_reported_as_the_stages(child):
    heard = []
    with listening(heard.append):
        child(PROGRESS.format(1) + PROGRESS.format(2) + "print('garbage')\nsend(kind='result', payload=1)")
    assert [(report.stage, report.done) for report in heard] == [("train", 1), ("train", 2)]
    assert child.lines == ["garbage"]


def test_where_nobody_listens_progress_is_lines(child):
    child(PROGRESS.format(1) + PROGRESS.format(2) + PROGRESS.format(9) + "send(kind='result', payload=1)")
    assert [line.split("  ")[0] for line in child.lines] == ["step 1/9", "step 9/9"]


def test_an_error_of_ours_keeps_its_class_and_fields(child):
    error = CompatibilityError("wrong base", expected="a", found="b", where="c", fix="d")
    with pytest.raises(CompatibilityError) as caught:
        child(f"send(**{Failure.of(error).model_dump()!r}); sys.exit(1)")
    assert str(caught.value) == str(error)


def test_a_killed_child_is_an_error_with_its_last_words(child):
    with pytest.raises(WorkerDiedError, match=r"SIGKILL(?s:.)*step 41"):
        child("print('step 41', flush=True); os.kill(os.getpid(), signal.SIGKILL)")


def test_a_killed_childs_last_words_say_how_far_it_was(child):
    with pytest.raises(WorkerDiedError, match=r"a line\n    step 7/9"):
        child("print('a line', flush=True)\n" + PROGRESS.format(7) + "os.kill(os.getpid(), signal.SIGKILL)")


def test_a_child_that_does_not_stop_in_time_is_killed_and_that_is_said(child, monkeypatch):
    monkeypatch.setattr(launch, "TERMINATION_GRACE_S", 0.5)

    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
            on_line=interrupt,
        )
    assert "killed" in child.lines[-1]


def test_a_terminals_signals_do_not_reach_a_child(child):
    body = "for number in (signal.SIGINT, signal.SIGHUP): os.kill(os.getpid(), number)\n"
    assert child(body + "send(kind='result', payload=7)") == 7


def test_preemption_is_told_from_failure(child):
    with pytest.raises(PreemptedError):
        child("sys.exit(75)")


def test_a_silent_child_is_killed(child):
    started = time.monotonic()
    with pytest.raises(WorkerDiedError, match="stalled"):
        child("print('working', flush=True); time.sleep(60)", stall_timeout_s=1.0)
    assert time.monotonic() - started < 30


def test_progress_is_a_sign_of_life(child):
    steps = "for step in range(1, 7):\n    " + PROGRESS.format("step") + "    time.sleep(0.4)\n"
    assert child(steps + "send(kind='result', payload=1)", stall_timeout_s=1.5) == 1


def test_a_child_stops_when_its_parent_is_gone(tmp_path):
    child = "import os, time; from softalign.processes.supervise import watch_parent; import sys\n"
    child += "watch_parent(int(sys.argv[1]), interval_s=0.1); time.sleep(60)"
    parent = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    child_pid = int(process.stdout.readline())
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _is_running(child_pid):
        time.sleep(0.1)
    assert not _is_running(child_pid)


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
