"""Processes that belong together: their environment, and that one's death is everyone's."""

import sys
import time

import pytest
from pydantic import ValidationError

from softalign.config import Runtime
from softalign.errors import ConfigError, DataError, PreemptedError, WorkerDiedError
from softalign.processes import launch
from softalign.processes.launch import RankProcesses, rank_environments
from softalign.processes.messages import Failure
from softalign.processes.supervise import run_child


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", *launch.NODE_RANK_VARIABLES):
        monkeypatch.delenv(name, raising=False)


def test_one_process_needs_no_environment():
    assert rank_environments(Runtime()) == [{}]


def test_two_processes_of_one_machine_meet_at_a_port_of_it():
    first, second = rank_environments(Runtime(num_processes=2))
    assert (first["RANK"], second["RANK"]) == ("0", "1")
    assert (first["LOCAL_RANK"], second["LOCAL_RANK"]) == ("0", "1")
    assert first["WORLD_SIZE"] == first["LOCAL_WORLD_SIZE"] == "2"
    assert first["MASTER_ADDR"] == "127.0.0.1"
    assert first["MASTER_PORT"] == second["MASTER_PORT"]


def test_machines_number_their_processes_one_after_another(monkeypatch):
    runtime = Runtime(num_processes=2, num_nodes=3, rendezvous_endpoint="head:29500")
    monkeypatch.setenv("NODE_RANK", "2")
    found = rank_environments(runtime)
    assert [each["RANK"] for each in found] == ["4", "5"]
    assert [each["LOCAL_RANK"] for each in found] == ["0", "1"]
    assert {(each["WORLD_SIZE"], each["MASTER_ADDR"], each["MASTER_PORT"]) for each in found} == {
        ("6", "head", "29500")
    }
    for wrong in ("3", "x", ""):
        monkeypatch.setenv("NODE_RANK", wrong)
        with pytest.raises(ConfigError, match="which of the machines"):
            rank_environments(runtime)


def test_inside_torchrun_its_environment_is_used_as_it_is(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert rank_environments(Runtime()) == [{}]
    with pytest.raises(ConfigError, match="twice"):
        rank_environments(Runtime(num_processes=2))


@pytest.mark.parametrize("changes", [{"num_nodes": 2}, {"rendezvous_endpoint": "head:29500"}], ids=str)
def test_an_endpoint_belongs_to_several_machines(changes):
    with pytest.raises(ValidationError, match="rendezvous_endpoint"):
        Runtime(**changes)


@pytest.fixture
def supervised(monkeypatch, tmp_path):
    """Run a script in two supervised processes."""

    def run(body, stall_timeout_s=20.0, on_line=lambda _line: None):
        script = tmp_path / "rank.py"
        script.write_text("import json, os, signal, sys, time\nrank = int(os.environ['RANK'])\n" + body)
        real = launch.subprocess.Popen

        def popen(command, **options):
            return real([sys.executable, "-u", str(script)], **options)

        monkeypatch.setattr(launch.subprocess, "Popen", popen)
        environments = rank_environments(Runtime(num_processes=2))
        return run_child(
            "worker",
            "",
            label="train",
            stall_timeout_s=stall_timeout_s,
            on_line=on_line,
            environments=environments,
        )

    return run


def test_both_lines_and_one_answer_arrive(supervised):
    lines = []
    result = supervised(
        "print(f'line of {rank}')\nprint(json.dumps({'kind': 'result', 'payload': 1})) if rank == 0 else None",
        on_line=lines.append,
    )
    assert result == 1
    assert sorted(lines) == ["line of 0", "line of 1"]


def test_an_error_of_any_rank_is_the_groups(supervised):
    failure = Failure.of(DataError("x" * 200_000)).model_dump()  # too long for a pipe to take at once
    with pytest.raises(DataError, match="x" * 200_000):
        supervised(f"print(json.dumps({failure!r} if rank else {{'kind': 'result', 'payload': 1}})); sys.exit(rank)")


@pytest.mark.parametrize("dead", [0, 1])
def test_a_rank_that_dies_ends_the_other_at_once(supervised, dead):
    started = time.monotonic()
    with pytest.raises(WorkerDiedError, match=rf"Process {dead} of train died \(signal SIGKILL\)"):
        supervised(
            f"if rank == {dead}: os.kill(os.getpid(), signal.SIGKILL)\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
        )
    assert time.monotonic() - started < 20


def test_ranks_that_leave_after_a_checkpoint_are_preempted(supervised):
    with pytest.raises(PreemptedError):
        supervised("time.sleep(0.5 * rank); sys.exit(75)")


def test_a_rank_that_stays_when_the_other_has_left_is_killed(supervised, monkeypatch):
    monkeypatch.setattr(launch, "TERMINATION_GRACE_S", 1.0)
    started = time.monotonic()
    with pytest.raises(WorkerDiedError):
        supervised("time.sleep(60 * rank); sys.exit(75)")
    assert time.monotonic() - started < 20


def test_silent_ranks_are_all_killed(supervised):
    with pytest.raises(WorkerDiedError, match="stalled"):
        supervised("time.sleep(60)", stall_timeout_s=1.5)


def test_the_code_of_the_rank_that_failed_first_is_the_groups(tmp_path):
    body = "import os, time; time.sleep(0.2); os._exit(3 if os.environ['RANK'] == '1' else 0)"
    group = RankProcesses([sys.executable, "-c", body], rank_environments(Runtime(num_processes=2)), {})
    assert group.exit_code() == 3
    assert group.failed == (1, 3)
    group.stop()
