"""Runs that lose their process, on the stack of ``make stack``: each ends without a person."""

import json
import math
import os
import signal
import time

import psutil
import pytest

from tests.conftest import TINY
from tests.integration.prefect_api import ask, start_run, state_of, wait_until

TRAIN = (*TINY, "train.num_steps=300", "runtime.checkpoint_every_steps=20", "register.name=survivor")
SIGNED_ELSEWHERE = {"softalign.machine": "a machine that is lost"}


@pytest.fixture
def api(stack, monkeypatch):
    """Point this process to the stack's server."""
    for name, value in stack.exports.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def run_in(api):
    """Return a function that makes a run in a state which no process stands behind, signed by a lost machine."""

    def make(state, name=None, labels=SIGNED_ELSEWHERE, **parameters):
        # a start in a year: the workers do not take it
        deployment = ask("/deployments/name/softalign-curate/curate")["id"]
        later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2035-01-01T00:00:00Z"}}
        run_id = ask(f"/deployments/{deployment}/create_flow_run", {"state": later, "parameters": parameters})["id"]
        ask(f"/flow_runs/{run_id}/labels", labels, method="PATCH")
        # one that never started is cancelled by Prefect's own worker
        before = ["RUNNING"] if state == "CANCELLING" else []
        for kind, label in [(one, None) for one in before] + [(state, name)]:
            ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": kind, "name": label}, "force": True})
        return run_id

    return make


def look(seconds, max_gap_s=math.inf, **limits):
    """Look at the pool's runs now and some seconds later, as a worker does; return what was done."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server.decision import Limits
    from flows.server.recover import Recoverer

    with temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}):
        clock = iter([0.0, seconds])
        recoverer = Recoverer(["cpu", "gpu"], Limits(**limits), max_gap_s, clock=lambda: next(clock))
        first = recoverer.look()
        return {str(run): action.value for run, action in {**first, **recoverer.look()}.items()}


def processes_of(run_id):
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def worker_process(stack):
    return psutil.Process(json.loads((stack.state / "worker-gpu.process.json").read_text())["pid"])


def wait_for_training(run_id, attempt):
    wait_until(lambda: state_of(run_id) == ("RUNNING", attempt))
    wait_until(lambda: any("softalign.stages.worker" in " ".join(one.cmdline()) for one in processes_of(run_id)))


def test_a_run_outlives_its_process_its_worker_and_a_stop(stack, api):
    run_id = start_run("softalign-retrain/retrain", *TRAIN)
    wait_for_training(run_id, 1)
    os.kill(int(ask(f"/flow_runs/{run_id}")["infrastructure_pid"]), signal.SIGKILL)

    wait_for_training(run_id, 2)
    for process in [worker_process(stack), *processes_of(run_id)]:
        process.kill()

    wait_for_training(run_id, 3)  # the watch has started the worker again
    worker = worker_process(stack)
    worker.terminate()
    psutil.wait_procs([worker], timeout=60)
    assert processes_of(run_id) == []
    assert "Crashed" not in [state["name"] for state in ask(f"/flow_run_states/?flow_run_id={run_id}")][-2:]

    wait_until(lambda: state_of(run_id) == ("COMPLETED", 4))


def test_a_run_that_is_cancelled_stays_cancelled(stack, api):
    run_id = start_run("softalign-retrain/retrain", *TINY, "train.num_steps=100000", "train.seed=1")
    wait_for_training(run_id, 1)
    ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
    wait_until(lambda: state_of(run_id)[0] == "CANCELLED", seconds=40)
    look(0)
    assert state_of(run_id) == ("CANCELLED", 1)
    assert processes_of(run_id) == []


@pytest.mark.parametrize(
    ("state", "name", "action", "after"),
    [
        ("RUNNING", "Running", "crash and reschedule", "SCHEDULED"),
        ("PENDING", "Submitting", "crash and reschedule", "SCHEDULED"),
        ("PENDING", "InfrastructurePending", "crash and reschedule", "SCHEDULED"),
        ("CANCELLING", "Cancelling", "cancel", "CANCELLED"),
    ],
)
def test_a_run_of_a_lost_machine_is_settled_once_it_was_silent_for_long(run_in, state, name, action, after):
    run_id = run_in(state, name)
    assert run_id not in look(20, silent_s=30, pending_s=30)
    assert look(31, silent_s=30, pending_s=30)[run_id] == action
    states = ask(f"/flow_run_states/?flow_run_id={run_id}")
    assert after in [one["type"] for one in states]
    for one in states:
        if one["name"] == "AwaitingRetry":  # due also on a clock that is set back: the dates are compared
            assert one["state_details"]["scheduled_time"][:10] < one["timestamp"][:10]
    ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLED"}, "force": True})


def test_a_server_that_was_away_makes_no_run_look_lost(run_in):
    run_id = run_in("RUNNING", "Running")
    assert run_id not in look(500, max_gap_s=75)
    ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLED"}, "force": True})


def test_a_finished_run_is_not_run_again(run_in):
    run_id = run_in("RUNNING", "Running")
    ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": "COMPLETED"}, "force": True})
    assert run_id not in look(9999)
    assert state_of(run_id)[0] == "COMPLETED"


LOST_TEN_TIMES = {**SIGNED_ELSEWHERE, "softalign.recoveries": 10, "softalign.progress": "0 tasks, 0.00 %"}


def test_a_run_that_is_lost_again_and_again_is_given_up_with_a_reason(run_in):
    run_id = run_in("RUNNING", "Running", LOST_TEN_TIMES)
    assert look(130)[run_id] == "give up"
    state = ask(f"/flow_runs/{run_id}")["state"]
    assert state["type"] == "FAILED"
    assert "11 times without getting any further" in state["message"]


def test_a_run_that_gets_further_between_its_losses_is_taken_up_again(run_in):
    run_id = run_in("RUNNING", "Running", LOST_TEN_TIMES)
    ask("/artifacts/", {"key": "shapes-train-steps", "type": "progress", "data": 40.0, "flow_run_id": run_id})
    assert look(130)[run_id] == "crash and reschedule"
    assert ask(f"/flow_runs/{run_id}")["labels"]["softalign.recoveries"] == 1
    ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLED"}, "force": True})


@pytest.mark.parametrize(("state", "name"), [("RUNNING", "Running"), ("PENDING", "Submitting"), ("CRASHED", "Crashed")])
def test_a_run_with_an_unknown_parameter_fails_at_its_first_loss_and_says_why(run_in, state, name):
    run_id = run_in(state, name, recip="shapes")
    assert look(500)[run_id] == "give up"
    state = ask(f"/flow_runs/{run_id}")["state"]
    assert state["type"] == "FAILED"
    assert "no parameter 'recip'; it takes overrides, recipe, store" in state["message"]


def test_no_secret_is_on_a_command_line(stack, api):
    secrets = json.loads((stack.state / "settings.json").read_text())
    lines = [" ".join(process.cmdline()) for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]
    for name in ("password", "access_key", "secret_key"):
        assert not [line for line in lines if secrets[name] in line]


def test_a_dead_service_is_started_again_at_its_address(stack, api):
    record = stack.state / "mlflow.process.json"
    before = json.loads(record.read_text())["pid"]
    psutil.Process(before).kill()
    begin = time.monotonic()
    wait_until(lambda: json.loads(record.read_text())["pid"] != before, seconds=30)
    wait_until(lambda: stack("status").returncode == 0, seconds=120)
    assert time.monotonic() - begin < 150


def test_the_servers_automation_starts_somebody_who_looks(run_in):
    wait_until(lambda: len(automations()) == 2, seconds=100)
    run_id = run_in("RUNNING", "Running")
    ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CRASHED"}})
    wanted = {"flow_runs": {"name": {"any_": [f"recover-prefect.flow-run.{run_id}"]}}}
    wait_until(lambda: [one["state"]["type"] for one in ask("/flow_runs/filter", wanted)] == ["COMPLETED"], seconds=60)
    assert "AwaitingRetry" in [state["name"] for state in ask(f"/flow_run_states/?flow_run_id={run_id}")]
    ask(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLED"}, "force": True})


def automations():
    """The names of those that look after runs; other tests deploy more."""
    names = [one["name"] for one in ask("/automations/filter", {})]
    return [name for name in names if name in ("softalign: a run is silent", "softalign: a run crashed")]
