"""``softalign study``: its plan, its refusals, and what a child process answers."""

import json

import pytest
from typer.testing import CliRunner

from softalign.cli.app import app
from softalign.config import load_recipe
from softalign.errors import ConfigError, TrainingError
from softalign.processes.messages import Failure, Result
from softalign.study import worker
from softalign.study.jobs import CellJob
from softalign.study.outcomes import CellOutcome
from softalign.study.running import Pool
from tests.sample_records import ADAPTER


def invoke(*arguments):
    return CliRunner().invoke(app, ["study", *arguments], catch_exceptions=False)


def test_the_plan_of_the_packages_study_is_within_six_hours_of_two_cores(tmp_path):
    done = invoke("embedded", "--store", str(tmp_path / "store"), "--plan", "--workers", "2", "--json")
    planned = json.loads(done.stdout)
    assert done.exit_code == 0
    assert sum(model["hours"] for model in planned["models"]) / 2 <= 6.0
    assert [model["num_there"] for model in planned["models"]] == [0, 0]
    assert not (tmp_path / "store").exists()


def test_a_result_needs_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="not said where the study's result goes"):
        invoke("embedded", "--store", "s3://bucket/store")


def test_workers_share_the_cores_unless_threads_are_said(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Pool(4).environment == {"OMP_NUM_THREADS": "2"}
    assert Pool(16).environment == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert Pool(4).environment == {"OMP_NUM_THREADS": "3"}


class Heard:
    def __init__(self):
        self.messages = []

    def send(self, message):
        self.messages.append(message)


@pytest.fixture
def answered(monkeypatch):
    """Return what a child answers to a cell that comes to something."""
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    monkeypatch.setattr(worker.logging, "basicConfig", lambda **_: None)

    def answer(run):
        monkeypatch.setattr(worker, "run_cell", run)
        heard = Heard()
        return worker.answer(CellJob(recipe=load_recipe("shapes"), store="store"), heard), heard.messages[-1]

    return answer


def test_a_child_answers_with_its_outcome_its_error_or_its_bug(answered):
    outcome = CellOutcome(adapter=ADAPTER, reports=(), num_run=3)
    code, said = answered(lambda *_: outcome)
    assert code == 0 and isinstance(said, Result) and CellOutcome.model_validate(said.payload) == outcome

    def refuse(*_):
        raise TrainingError("no pairs")

    code, said = answered(refuse)
    assert code == TrainingError.exit_code and isinstance(said, Failure) and said.what == "no pairs"
    code, said = answered(lambda *_: 1 / 0)
    assert code == 1 and "ZeroDivisionError" in said.found
