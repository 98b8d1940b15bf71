"""A child process is relayed, watched, and its errors arrive as what they were."""

import json
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from softalign.errors import CompatibilityError, PreemptedError, WorkerDiedError
from softalign.processes import launch, supervise


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Replace the worker module by a script: returns a runner that takes the script's body."""

    def run(body, stall_timeout_s=20.0, on_line=lambda _: None):
        script = tmp_path / "child.py"
        script.write_text(
            "import json, os, sys, time, signal\nrequest, answer = sys.argv[-2:]\n" + textwrap.dedent(body)
        )
        real = subprocess.Popen

        def popen(command, **options):
            return real([sys.executable, "-u", str(script), *command[-2:]], **options)

        monkeypatch.setattr(launch.subprocess, "Popen", popen)
        lines = []

        def keep(line):
            lines.append(line)
            on_line(line)

        try:
            answer = supervise.run_child(
                {"stage": "train"}, tmp_path / "children", stall_timeout_s=stall_timeout_s, on_line=keep
            )
        finally:
            run.lines = lines
        return answer

    return run


def test_lines_are_relayed_and_the_answer_returned(child, tmp_path):
    answer = child("print('one'); print('two', file=sys.stderr); json.dump({'record': 7}, open(answer, 'w'))")
    assert answer == {"record": 7}
    assert sorted(child.lines) == ["one", "two"]
    assert list((tmp_path / "children").iterdir()) == []


def test_an_error_of_ours_keeps_its_class_and_fields(child):
    error = CompatibilityError("wrong base", expected="a", found="b", where="c", fix="d")
    payload = json.dumps({"error": supervise.error_to_json(error)})
    with pytest.raises(CompatibilityError) as caught:
        child(f"open(answer, 'w').write({payload!r}); sys.exit(1)")
    assert str(caught.value) == str(error)


def test_a_killed_child_is_an_error_with_its_last_words(child):
    with pytest.raises(WorkerDiedError, match=r"SIGKILL(?s:.)*step 41"):
        child("print('step 41', flush=True); os.kill(os.getpid(), signal.SIGKILL)")


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
    assert child(body + "json.dump({'record': 7}, open(answer, 'w'))") == {"record": 7}


def test_preemption_is_told_from_failure(child):
    with pytest.raises(PreemptedError):
        child("sys.exit(75)")


def test_a_silent_child_is_killed(child):
    started = time.monotonic()
    with pytest.raises(WorkerDiedError, match="stalled"):
        child("print('working', flush=True); time.sleep(60)", stall_timeout_s=1.0)
    assert time.monotonic() - started < 30


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
