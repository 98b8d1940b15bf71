"""Two retrains at once on one GPU slot, by two workers of a machine: their stages with a model take turns (slow)."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.chaos.faults import processes_of_runs
from tests.conftest import TINY
from tests.integration.conftest import ROOT, Stack, missing
from tests.integration.prefect_api import start_run, state_of

RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"
LIMIT_S = 900.0


@pytest.fixture
def stack(monkeypatch):
    if lacking := missing():
        pytest.skip(f"the stack needs {', '.join(lacking)}")
    monkeypatch.setenv("SOFTALIGN_GPU_SLOTS", "1")
    with tempfile.TemporaryDirectory(prefix="softalign-slot-") as folder:
        Path(folder).chmod(0o755)  # Postgres does not run as root
        made = Stack(Path(folder))
        try:
            made.up()
            for name, value in made.exports.items():
                monkeypatch.setenv(name, value)
            with another_worker(made):
                yield made
        finally:
            made("down")


@contextmanager
def another_worker(stack):
    with (stack.state / "logs/worker-beside.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "flows.worker", "--pool", "gpu", "--name", "beside", "--limit", "1"],
            cwd=ROOT,
            env={**os.environ, "SOFTALIGN_STACK_SERVICE": f"{stack.state}:worker-beside"},
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(timeout=60)


def runs_of(processes):
    found = set()
    for process in processes:
        try:
            found.add(process.environ().get(RUN_VARIABLE))
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.slow
def test_two_retrains_take_turns_on_one_slot(stack):
    asked = (*TINY, "train.num_steps=300", "runtime.checkpoint_every_steps=50")
    both = {
        start_run("softalign-retrain/retrain", *asked, f"train.seed={seed}", f"register.name=slot-{seed}")
        for seed in (1, 2)
    }
    seen, deadline = [], time.monotonic() + LIMIT_S
    while {state_of(run_id)[0] for run_id in both} & {"SCHEDULED", "PENDING", "RUNNING"}:
        assert time.monotonic() < deadline, stack.logs()
        flows, children = processes_of_runs(stack)
        seen.append((runs_of(flows), runs_of(children)))
        time.sleep(0.2)
    assert {state_of(run_id)[0] for run_id in both} == {"COMPLETED"}
    assert max(len(at_work) for _, at_work in seen) == 1
    assert set.union(*(at_work for _, at_work in seen)) == both
    turns = [at_work for open_runs, at_work in seen if open_runs == both and at_work]
    assert len({tuple(at_work) for at_work in turns}) == 2, "each had the slot while the other one was there"
