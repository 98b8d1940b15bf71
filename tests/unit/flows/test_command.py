"""``python -m flows.NAME``: output, exit codes, signals; with functions in place of flows, so no server."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.exceptions import TerminationSignal
from prefect.states import exception_to_crashed_state
from typer.main import get_command

from flows import command, curate, evaluate, register, retrain, train
from flows.server import start as server
from flows.summary import FlowSummary, StageOutcome
from softalign.cli.app import app as softalign_app
from softalign.errors import DataError, PreemptedError
from softalign.processes.leaving import STOP_SIGNALS
from tasks.run_log import NoTraceback
from tests.killing import exit_codes, is_killed

FLOWS = (curate.curate, train.train, evaluate.evaluate, register.register, retrain.retrain)
SUMMARY = FlowSummary(
    name="shapes",
    stages=(
        StageOutcome(label="curate", is_reused=True, seconds=0.01, digest="d" * 64, uri="/store/curate/k"),
        StageOutcome(label="train", is_reused=False, seconds=12.5, digest="e" * 64, uri="/store/train/k"),
    ),
)


class FakeFlow:
    description = "One line.\n\nMore."

    def __init__(self, error=None):
        self.error, self.calls = error, []

    def __call__(self, recipe, overrides, store):
        self.calls.append((recipe, overrides, store))
        if self.error:
            raise self.error
        return SUMMARY


@pytest.fixture(autouse=True)
def without_server(monkeypatch):
    monkeypatch.setattr(command, "start_server", lambda: None)


def test_result_as_text_and_as_one_json_document(capsys):
    fake = FakeFlow()
    assert command.run_command(fake, ["shapes", "--set", "train.num_steps=2", "--store", "s"]) == 0
    text = capsys.readouterr().out
    assert "curate" in text and "reused" in text and "12.5 s" in text
    assert command.run_command(fake, ["shapes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == SUMMARY.model_dump(mode="json")
    assert fake.calls == [("shapes", ["train.num_steps=2"], "s"), ("shapes", [], "softalign-store")]


def test_the_store_may_come_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("SOFTALIGN_STORE", "elsewhere")
    fake = FakeFlow()
    command.run_command(fake, ["shapes"])
    assert fake.calls[0][2] == "elsewhere"
    capsys.readouterr()


def test_a_bad_recipe_is_refused_before_the_flow_starts(capsys):
    fake = FakeFlow()
    assert command.run_command(fake, ["shapes", "--set", "train.num_stepz=2"]) == 2
    assert fake.calls == []
    assert "num_stepz" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(DataError("Bad data.", fix="look"), 1), (PreemptedError("Stopped."), 75)])
def test_errors_become_exit_codes(capsys, error, code):
    assert command.run_command(FakeFlow(error), ["shapes"]) == code
    captured = capsys.readouterr()
    assert f"\nerror: {error.what}" in captured.err
    assert captured.out == ""


def test_an_error_of_the_operating_system_is_one_message(capsys):
    assert command.run_command(FakeFlow(OSError(28, "No space left on device", "/full/disk")), ["shapes"]) == 1
    said = "error: No space left on device: /full/disk\n  to do: make room, then run again: finished work is kept\n"
    assert capsys.readouterr().err.endswith(said)


@pytest.mark.parametrize(("arguments", "said"), [([], "RECIPE"), (["shapes", "--stre", "x"], "--stre")])
def test_bad_usage_is_refused_with_what_was_meant(capsys, arguments, said):
    fake = FakeFlow()
    assert command.run_command(fake, arguments) == 2
    assert fake.calls == []
    assert said in capsys.readouterr().err


def test_the_options_are_those_of_the_softalign_command():
    def options(shown):
        return {tuple(parameter.opts): parameter.help for parameter in get_command(shown).params}

    ours = options(command._app(FakeFlow()))
    theirs = {tuple(found.opts): found.help for found in get_command(softalign_app).commands["run"].params}
    assert ours.pop(("--verbose", "-v")) == "show Prefect's own lines too"
    assert ours == {opts: text for opts, text in theirs.items() if opts != ("--plain",)}


def test_help_is_the_flows_first_line(capsys):
    assert command.run_command(FakeFlow(), ["-h"]) == 0
    shown = capsys.readouterr().out
    assert "One line." in shown and "More." not in shown


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stopped_flow_leaves_with_one_line_and_75(capfd, tmp_path, number):
    class StoppedFlow(FakeFlow):
        def __call__(self, *arguments):
            signal.raise_signal(number)

    def work():
        return command.run_command(StoppedFlow(), ["shapes", "--store", str(tmp_path / "store")])

    assert exit_codes(lambda _: work(), 1) == [75]
    captured = capfd.readouterr()
    *_, said = captured.err.splitlines()
    assert said == f"stopped: no stage is finished yet in {tmp_path / 'store'}; the same command goes on"
    assert captured.err.count("stopped:") == 1
    assert captured.out == ""


def test_only_news_is_logged():
    for error, kept in ((DataError("Bad data."), False), (ValueError("a bug"), True)):
        try:
            raise error
        except (DataError, ValueError):
            said = ("Encountered exception during execution: %r", (error,))
            record = logging.LogRecord("x", logging.ERROR, "f", 1, *said, sys.exc_info())
        assert command._is_news(record) and NoTraceback().filter(record)
        assert bool(record.exc_info) is kept
        assert record.getMessage() == (
            "Bad data." if not kept else "Encountered exception during execution: ValueError('a bug')"
        )
    stopped = asyncio.run(exception_to_crashed_state(TerminationSignal(signal.SIGTERM)))
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "Crash detected! %s", (stopped.message,), None)
    assert not command._is_news(record)


def test_the_server_does_not_outlive_a_flow_that_is_killed(tmp_path):
    def work():
        process = subprocess.Popen(["sleep", "60"])
        (tmp_path / "pid").write_text(str(process.pid))
        server._guard(process.pid)
        os.kill(os.getpid(), signal.SIGKILL)

    assert is_killed(work)
    found = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    deadline = time.monotonic() + 20
    while found.exists() and found.read_text().rsplit(")", 1)[1].split()[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_flows_take_parameters_a_deployment_can_store(flow):
    schema = flow.parameters if hasattr(flow, "parameters") else None
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(flow.fn).model_dump()
    assert schema["required"] == ["recipe"]
    text, form = schema["properties"]["recipe"]["anyOf"]
    assert text == {"type": "string"}
    assert form["required"] == ["name", "curation", "register"]
    assert form["properties"]["train"]["properties"]["num_steps"]["description"]
    assert "$ref" not in json.dumps(form)
    others = {name: field["type"] for name, field in schema["properties"].items() if name != "recipe"}
    assert others == {"overrides": "array", "store": "string"}
    assert all(field.get("description") for field in schema["properties"].values())
    assert flow.validate_parameters({"recipe": "shapes", "overrides": ["a.b=1"]}) is not None
    assert not flow.persist_result
