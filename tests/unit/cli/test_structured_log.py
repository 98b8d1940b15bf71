"""With SOFTALIGN_LOG=json everything on standard error is objects that say which run, stage and inputs they are of."""

import io
import json
import logging
import sys
from datetime import datetime

import pytest

from softalign.cli.console import narrating, report_error
from softalign.errors import ConfigError, DataError
from softalign.processes.leaving import _Leaving
from softalign.processes.lines import PacedLines
from softalign.processes.messages import LogLine
from softalign.processes.progress import Figure
from softalign.processes.reporter import Reporter
from softalign.processes.structured import JsonHandler, JsonStream, structure_stderr
from softalign.processes.supervise import _Heard
from softalign.run_context import log_fields, orchestrator_run_url, run_id

log = logging.getLogger("softalign.some.place")


@pytest.fixture
def structured(monkeypatch):
    """Return a function that turns standard error into JSON lines, and returns one that reads them.

    Called in the test itself: between a fixture and its test pytest sets the stream anew.
    """

    def begin():
        raw = io.StringIO()
        monkeypatch.setenv("SOFTALIGN_LOG", "json")
        monkeypatch.setattr(sys, "stderr", raw)
        monkeypatch.setattr(logging.getLogger("softalign"), "level", logging.INFO)
        structure_stderr()
        structure_stderr()
        return lambda: [json.loads(line) for line in raw.getvalue().splitlines()]

    return begin


def test_a_record_is_an_object_with_its_time_level_logger_run_and_context(structured):
    objects = structured()
    with narrating(sys.stderr), log_fields(recipe="shapes", stage="train"), log_fields(stage_key="0123"):
        log.warning("two\nlines, %s", "\x1b[1mü\x1b[0m")
    (line,) = objects()
    assert datetime.fromisoformat(line.pop("time")).utcoffset().total_seconds() == 0
    assert line == {
        **{"level": "warning", "logger": "softalign.some.place", "message": "two\nlines, ü", "run_id": run_id()},
        **{"recipe": "shapes", "stage": "train", "stage_key": "0123"},
    }


def test_what_anyone_writes_is_an_object_too(structured):
    objects = structured()
    sys.stderr.write("begun")
    sys.stderr.write(", and ended\nnext\n\n")
    print("a \udc80 half", file=sys.stderr)
    assert [line["message"] for line in objects()] == ["begun, and ended\nnext", "a \udc80 half"]
    assert not sys.stderr.isatty()


def test_progress_has_its_counts(structured):
    objects = structured()
    with narrating(sys.stderr), log_fields(stage="train"), Reporter("train", "step", 4, num_reused=1) as steps:
        steps.reach(4, lambda: (Figure(name="loss", value=0.5),))
    (line,) = objects()
    assert line["progress"].items() >= {"stage": "train", "unit": "step", "done": 4, "total": 4}.items()
    assert line["progress"]["figures"] == {"loss": 0.5} and line["stage"] == "train"


def test_a_childs_line_keeps_its_level_and_logger_and_has_the_parents_context(structured):
    objects = structured()
    with narrating(sys.stderr), log_fields(stage="train"):
        _Heard("train", log.info).take(LogLine(text="thin data", level="warning", logger="softalign.training.train"))
    (line,) = objects()
    assert (line["level"], line["logger"], line["stage"]) == ("warning", "softalign.training.train", "train")


@pytest.mark.parametrize(
    ("error", "parts", "code"),
    [
        (
            DataError("Bad.", expected="a", found="b", where="c", fix="d"),
            {"type": "DataError", "what": "Bad.", "expected": "a", "found": "b", "where": "c", "fix": "d"},
            1,
        ),
        (
            PermissionError(13, "Permission denied", "/x"),
            {"type": "SoftAlignError", "what": "Permission denied: /x"},
            1,
        ),
    ],
)
def test_an_error_has_its_parts(structured, error, parts, code):
    objects = structured()
    assert report_error(error) == code
    (line,) = objects()
    assert line["level"] == "error" and line["message"].startswith("error: ")
    assert line["error"].items() >= parts.items()


def test_a_stop_is_an_object_though_nothing_else_is_shown_any_more(monkeypatch, capfd):
    monkeypatch.setenv("SOFTALIGN_LOG", "json")
    leaving = _Leaving(lambda: "stopped: train is kept")
    leaving.say()
    leaving.close()
    assert json.loads(capfd.readouterr().err)["message"] == "stopped: train is kept"


def test_another_programs_log_carries_the_orchestrators_runs(structured):
    objects = structured()
    record = logging.LogRecord("prefect.task_runs", logging.ERROR, __file__, 1, "Failed", (), None)
    record.flow_run_id, record.task_run_id = "flow-1", "task-1"
    JsonHandler().handle(record)
    (line,) = objects()
    assert line.items() >= {"run_id": "flow-1", "task_run_id": "task-1", "level": "error", "message": "Failed"}.items()


def test_text_stays_text_and_another_form_is_refused(monkeypatch):
    raw = io.StringIO()
    monkeypatch.setattr(sys, "stderr", raw)
    for value in ("", "text"):
        monkeypatch.setenv("SOFTALIGN_LOG", value)
        structure_stderr()
        with narrating(sys.stderr), log_fields(stage="train"):
            PacedLines(sys.stderr.write)
            log.warning("plain")
    assert raw.getvalue() == "plain\nplain\n" and not isinstance(sys.stderr, JsonStream)
    monkeypatch.setenv("SOFTALIGN_LOG", "xml")
    with pytest.raises(ConfigError, match="json or text"):
        structure_stderr()


def test_the_page_of_the_run_is_the_environments_where_no_orchestrator_says_its_own(monkeypatch):
    monkeypatch.setenv("SOFTALIGN_RUN_URL", "https://ci/jobs/7")
    assert orchestrator_run_url() == "https://ci/jobs/7"
