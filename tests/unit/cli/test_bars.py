"""Bars on a fake terminal: what is drawn, what stays, and that lines are left alone."""

import io
import re
import sys

import pytest
from rich.control import strip_control_codes

from softalign.cli.bars import Bars
from softalign.processes.progress import Figure, StageProgress
from tests.terminal import screen

FIGURES = (
    Figure(name="loss", value=0.4512),
    Figure(name="win rate", value=0.5625),
    Figure(name="match weight", value=0.3125, chance=0.25),
)
ESCAPES = re.compile(r"\x1b\[[0-?]*[@-~]")


def steps_at(done, **changes):
    return StageProgress(**{"stage": "train", "unit": "step", "done": done, "total": 300, "elapsed_s": 10.0, **changes})


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def bars(stream, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = Bars(stream, width=80)
    yield shown
    shown.close()


def test_a_bar_has_rate_time_left_and_what_people_watch(bars, stream):
    bars.show(steps_at(150, figures=FIGURES))
    row, figures = screen(stream)
    assert re.fullmatch(r"train ━+╺?━* step 150/300 15\.0/s 0:00:10 left", row)
    assert figures == "  loss 0.4512  win rate 0.5625  match weight 0.3125 (chance 0.25)"
    assert len(row) <= 80


def test_a_bar_moves_in_place_and_lines_stand_above_it(bars, stream):
    bars.say("first")
    bars.show(steps_at(1, figures=FIGURES))
    bars.show(steps_at(2, figures=FIGURES))
    bars.say("second [bold]not markup[/bold] " + "x" * 100)
    bars.show(steps_at(3, figures=FIGURES))
    first, second, row, figures = screen(stream)
    assert (first, second) == ("first", "second [bold]not markup[/bold] " + "x" * 100)  # whole: the terminal wraps it
    assert "step 3/300" in row
    assert figures.startswith("  loss")


def test_the_last_of_a_count_stays_and_the_next_one_goes_on_below(bars, stream):
    bars.show(steps_at(2000, stage="encode", unit="images", total=2000))
    bars.show(steps_at(2000, stage="encode", unit="images", total=2000, is_last=True))
    bars.show(steps_at(10, stage="encode", unit="captions"))
    bars.say("a line")
    images, line, captions = screen(stream)
    assert images.endswith("images 2000/2000 200.0/s in 0:00:10")
    assert line == "a line"
    assert "captions 10/300" in captions


def test_a_resumed_count_says_where_it_starts_and_its_bar_is_there(bars, stream):
    bars.show(steps_at(150, num_reused=150, elapsed_s=0.0))
    (row,) = screen(stream)
    assert "step 150/300 (150 done before)" in row
    half = row.split("step")[0].split()[1]
    assert "╺" in half and abs(half.index("╺") - len(half) / 2) <= 1


def test_what_is_waited_for_is_said_until_something_comes(bars, stream):
    bars.show(steps_at(5))
    bars.wait("  ... train: 20 s so far")
    bars.wait("  ... train: 21 s so far")
    row, waiting = screen(stream)
    assert "step 5/300" in row and waiting == "  ... train: 21 s so far"
    bars.say("a line")
    assert screen(stream)[0] == "a line" and "so far" not in "".join(screen(stream))


def test_in_the_end_unfinished_bars_stay_and_nothing_else(bars, stream):
    bars.show(steps_at(5))
    bars.wait("  ... train: 20 s so far")
    bars.close()
    row, *rest = screen(stream)
    assert "step 5/300" in row and not any(rest)


def test_a_narrow_terminal_costs_the_bar_first_and_nothing_wraps(stream):
    bars = Bars(stream, width=70)
    bars.show(steps_at(40, stage="evaluate (guided base)", unit="images", total=900, num_reused=20, figures=FIGURES))
    row, _ = screen(stream)
    assert len(row) <= 70
    assert "images 40/900" in row
    bars.close()


def test_a_total_that_is_not_known_is_a_bar_without_an_end(bars, stream):
    bars.show(steps_at(1234, stage="curate", unit="images", total=None, figures=(Figure(name="kept", value=1200),)))
    row, kept = screen(stream)
    assert row.endswith("images 1234 123.4/s") and "left" not in row
    assert kept == "  kept 1,200"


def test_warnings_of_libraries_stand_above_the_bars(bars, stream):
    bars.show(steps_at(1))
    print("a warning", file=sys.stderr)
    bars.show(steps_at(2))
    warning, row = screen(stream)
    assert warning == "a warning" and "step 2/300" in row


def test_without_colours_there_are_none(stream, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    bars = Bars(stream, width=80)
    bars.show(steps_at(150, figures=FIGURES))
    bars.close()
    assert not re.search(r"\x1b\[(3|4)[0-9;]*m", stream.getvalue())
    assert "step 150/300" in ESCAPES.sub("", strip_control_codes(stream.getvalue()))
