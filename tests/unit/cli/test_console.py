"""What a console shows: bars on a terminal, lines elsewhere, and what is being waited for where nothing is said."""

import io
import json
import logging
import sys
import time

import pytest

from softalign.cli import app
from softalign.cli.console import ConsoleLines, can_show_bars, narrating, shown_on
from softalign.cli.options import emit
from softalign.processes.progress import StageProgress
from softalign.processes.reporter import Reporter
from tests.terminal import screen


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    return Terminal()


def steps_at(done, **changes):
    return StageProgress(**{"stage": "train", "unit": "step", "done": done, "total": 10, "elapsed_s": 10.0, **changes})


def test_elsewhere_progress_is_plain_lines_and_has_no_control_characters():
    stream = io.StringIO()
    say = ConsoleLines(stream)
    say("\x1b[1mbegin\x1b[0m")
    for done in range(11):
        say.show(steps_at(done))
    say.show(steps_at(10, is_last=True))
    say("done")
    assert stream.getvalue() == ("begin\nstep 1/10  0:01:30 left  0.1/s\nstep 10/10  in 0:00:10  1.0/s\ndone\n")


def test_on_a_terminal_progress_is_a_bar_and_lines_stand_above(terminal):
    with narrating(terminal) as say:
        say("begin")
        with Reporter("train", "step", 2) as steps:
            steps.reach(1)
            logging.getLogger("softalign").warning("a \x1b[31mline\x1b[0m")
            steps.reach(2)
        say("done")
    begin, line, row, done, _ = screen(terminal)
    assert (begin, line, done) == ("begin", "a line", "done")
    assert row.startswith("train ━") and "step 2/2" in row


def test_quietly_a_terminal_has_no_bars(terminal):
    with narrating(terminal, is_quiet=True), Reporter("train", "step", 2) as steps:
        steps.reach(2)
    assert terminal.getvalue().startswith("step 2/2  in 0:00:00")
    assert "\x1b" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("variables", "can"), [({}, True), ({"CI": "true"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, True)]
)
def test_bars_are_for_people_at_a_terminal(terminal, monkeypatch, variables, can):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert can_show_bars(terminal) is can
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not can_show_bars(io.StringIO())


def wait_for(stream, text, seconds=10.0):
    deadline = time.monotonic() + seconds
    while text not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["Stage 3 of 8, train: soft tokens"], "  ... Stage 3 of 8, train: 0 s so far\n"),
        (
            ["Stage 3 of 8, train: x", "Loading PyTorch and the model"],
            "  ... Loading PyTorch and the model: 0 s so far",
        ),
        (["Stage 3 of 8, train: x", "Loading PyTorch", "training"], "  ... Stage 3 of 8, train: 0 s so far\n"),
        ([], "  ... working: 0 s so far\n"),
    ],
)
def test_a_silence_is_broken_by_what_is_being_waited_for(lines, said):
    stream = io.StringIO()
    with ConsoleLines(stream, silence_s=0.02) as say:
        for line in lines:
            say(line)
        assert said in wait_for(stream, said)
    ended = stream.getvalue()
    time.sleep(0.1)
    assert stream.getvalue() == ended


def test_on_a_terminal_the_waiting_line_is_replaced(terminal):
    with ConsoleLines(terminal, silence_s=0.02, has_bars=True) as say:
        say("Stage 1 of 8, curate: x")
        assert "  ... Stage 1 of 8, curate: 0 s so far" in wait_for(terminal, "so far")
        say("done")
    assert [line for line in screen(terminal) if line] == ["Stage 1 of 8, curate: x", "done"]


def test_lines_keep_silence_away():
    stream = io.StringIO()
    with ConsoleLines(stream, silence_s=0.5) as say:
        for _ in range(6):
            say("line")
            time.sleep(0.1)
    assert stream.getvalue() == "line\n" * 6


def test_the_log_is_shown_while_narrating_and_as_before_after_it():
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers
    with narrating(stream):
        logging.getLogger("softalign.x").warning("%d images", 3)
        logging.getLogger("transformers.utils.import_utils").warning("`X` requires torchvision (not installed)")
    assert stream.getvalue() == "3 images\n"
    assert root.handlers is before


def test_a_result_stands_where_something_was_waited_for(terminal, monkeypatch):
    """Both standard output and standard error are this terminal, as they mostly are."""
    monkeypatch.setattr(sys, "stdout", terminal)
    with ConsoleLines(terminal, silence_s=0.02, has_bars=True) as lines, shown_on(lines):
        wait_for(terminal, "so far")
        emit({}, False, "first row\nsecond row")
    assert screen(terminal)[:2] == ["first row", "second row"]
    assert not any(screen(terminal)[2:])


def test_streams_that_are_closed_lead_nowhere(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "argv", ["softalign", "recipe", "shapes", "--json"])
    with pytest.raises(SystemExit, match="0"):
        app.main()
    assert json.loads(capsys.readouterr().out)["recipe"]["name"] == "shapes"
    sys.stderr.close()
