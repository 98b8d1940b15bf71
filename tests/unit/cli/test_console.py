"""Progress lines become a bar on a terminal, and stay lines elsewhere."""

import io
import logging
import time

import pytest

from softalign.cli.console import ConsoleLines, narrating


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_elsewhere_lines_stay_lines():
    stream = io.StringIO()
    say = ConsoleLines(stream)
    say("step 3/10  loss 1")
    say("done")
    assert stream.getvalue() == "step 3/10  loss 1\ndone\n"


def test_on_a_terminal_progress_moves_in_place_and_other_lines_start_anew(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    say = ConsoleLines(stream)
    say("start")
    say("step 5/10  loss 1")
    say("step 10/10  loss 0.5")
    say("done")
    start, progress, done, _ = stream.getvalue().split("\n")
    assert (start, done) == ("start", "done")
    half, full = progress.split("\r\x1b[K")[1:]
    assert half == "step [############............] 5/10  loss 1"
    assert full.startswith("step [########################] 10/10")


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


def test_on_a_terminal_the_waiting_line_is_replaced():
    stream = Terminal()
    with ConsoleLines(stream, silence_s=0.02) as say:
        say("Stage 1 of 8, curate: x")
        wait_for(stream, "so far")
        say("done")
    assert "\r\x1b[K  ... Stage 1 of 8, curate: 0 s so far" in stream.getvalue()
    assert stream.getvalue().endswith("so far\ndone\n")


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


def test_a_bar_is_cut_to_the_terminals_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    ConsoleLines(stream)("step 5/10  " + "x" * 100)
    assert len(stream.getvalue().removeprefix("\r\x1b[K")) == 39
