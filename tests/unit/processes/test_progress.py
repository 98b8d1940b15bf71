"""How far long work is: who reports it, how often, who hears it, and how it reads."""

import logging
import threading

import pytest

from softalign.processes.lines import PacedLines
from softalign.processes.pace import LINE_INTERVAL_S, LONG_RUN_INTERVAL_S, LONG_RUN_S, Pace, duration
from softalign.processes.progress import Figure, StageProgress, listening
from softalign.processes.reporter import REPORT_INTERVAL_S, Reporter
from tests.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def heard():
    reports = []
    with listening(reports.append):
        yield reports


def steps_at(done, **changes):
    return StageProgress(**{"stage": "train", "unit": "step", "done": done, "total": 300, "elapsed_s": 10.0, **changes})


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (steps_at(40), "step 40/300  0:01:05 left  4.0/s"),
        (steps_at(40, num_reused=30), "step 40/300 (30 done before)  0:04:20 left  1.0/s"),
        (steps_at(1, elapsed_s=0.1), "step 1/300"),
        (steps_at(300), "step 300/300  in 0:00:10  30.0/s"),
        (steps_at(40, is_last=True), "step 40/300  in 0:00:10  4.0/s"),
        (steps_at(40, total=None, figures=(Figure(name="kept", value=1890),)), "step 40  4.0/s  kept 1,890"),
        (steps_at(0, figures=(Figure(name="loss", value=None),)), "step 0/300  loss not finite"),
        (
            steps_at(0, figures=(Figure(name="match weight", value=0.31256, chance=0.25),)),
            "step 0/300  match weight 0.3126 (chance 0.25)",
        ),
    ],
)
def test_progress_reads_as_one_line(shown, text):
    assert shown.to_text() == text


def test_a_count_is_reported_at_its_ends_after_the_first_and_at_an_interval(heard, clock):
    with Reporter("train", "step", 100, clock=clock) as steps:
        clock.now = 60.0  # a model loads: no time of the steps
        steps.begin()
        for step in range(1, 101):
            clock.now += REPORT_INTERVAL_S / 8  # exact in binary, as the sums below are
            steps.reach(step)
    assert [report.done for report in heard] == [0, 1, *range(9, 100, 8), 100, 100]
    assert [report.is_last for report in heard] == [False] * (len(heard) - 1) + [True]
    assert heard[1].elapsed_s == pytest.approx(REPORT_INTERVAL_S / 8)


def test_figures_are_asked_for_only_when_they_are_reported(heard, clock):
    asked = []

    def figures():
        asked.append(None)
        return (Figure(name="loss", value=1.5),)

    with Reporter("train", "step", 1000, clock=clock) as steps:
        for step in range(1, 1000):
            steps.reach(step, figures)
    assert len(asked) == len([report for report in heard if report.figures]) == 2


def test_a_resumed_count_begins_where_it_was_and_its_rate_is_of_this_attempt(heard, clock):
    with Reporter("train", "step", 300, num_reused=200, clock=clock) as steps:
        steps.begin()
        clock.now = 10.0
        steps.reach(250)
    assert (heard[0].done, heard[0].num_reused, heard[0].per_second) == (200, 200, None)
    assert (heard[1].per_second, heard[1].left_s) == (5.0, 10.0)


def test_what_turns_out_to_be_there_counts_as_done_and_not_as_work(heard, clock):
    with Reporter("encode", "images", 20, clock=clock) as images:
        assert list(images.over("abcde")) == list("abcde")
        images.skip_to(20)
        clock.now = 5.0
    assert (heard[-1].done, heard[-1].num_reused, heard[-1].per_second) == (20, 15, 1.0)


def test_a_total_may_be_known_later(heard):
    with Reporter("curate", "images", None) as images:
        images.begin()
        images.expect(7)
        images.reach(1)
    assert [report.total for report in heard] == [None, 7, 7]


def test_a_count_that_never_began_or_broke_off_says_no_more_than_is_so(heard):
    with Reporter("train", "step", 3):
        pass
    assert heard == []
    with pytest.raises(KeyError), Reporter("train", "step", 3) as steps:
        steps.reach(1)
        raise KeyError
    assert (heard[-1].done, heard[-1].is_last, heard[-1].is_complete) == (1, True, False)


def test_several_listen_until_they_stop_and_only_in_their_context():
    first, second, elsewhere = [], [], []

    def work():
        with listening(elsewhere.append), Reporter("train", "step", 1) as steps:
            steps.begin()

    with listening(first.append):
        with listening(second.append), Reporter("train", "step", 1) as steps:
            steps.begin()
        with Reporter("train", "step", 1) as steps:
            steps.begin()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert (len(first), len(second), len(elsewhere)) == (4, 2, 2)


def test_where_nobody_listens_the_log_has_a_line(caplog):
    caplog.set_level(logging.INFO, "softalign")
    with Reporter("encode", "images", 2) as images:
        assert list(images.over("ab")) == ["a", "b"]
    assert [message.split("  ")[0] for message in caplog.messages] == ["images 1/2", "images 2/2"]


def test_lines_come_at_first_every_few_seconds_and_at_last(clock):
    lines = []
    say = PacedLines(lines.append, clock)
    for done in range(300):
        say(steps_at(done))
        clock.now += LINE_INTERVAL_S / 128
    say(steps_at(300))
    say(steps_at(300, is_last=True))
    assert [line.split()[1] for line in lines] == ["1/300", "129/300", "257/300", "300/300"]


def test_counts_have_a_pace_each_and_one_that_comes_again_begins_anew(clock):
    lines = []
    say = PacedLines(lines.append, clock)
    for _ in range(2):
        for unit in ("images", "captions"):
            say(steps_at(0, unit=unit))
            say(steps_at(1, unit=unit))
            say(steps_at(2, unit=unit))
            say(steps_at(3, unit=unit, is_last=True))
    assert [line.split("/")[0] for line in lines] == ["images 1", "images 3", "captions 1", "captions 3"] * 2


def test_a_count_of_which_all_was_there_is_said_once():
    lines = []
    say = PacedLines(lines.append)
    say(steps_at(300, num_reused=300, elapsed_s=0.0))
    say(steps_at(300, num_reused=300, elapsed_s=0.0, is_last=True))
    assert lines == ["step 300/300 (300 done before)  in 0:00:00"]


@pytest.mark.parametrize(("step_s", "interval_s"), [(1.0, LINE_INTERVAL_S), (LONG_RUN_S, LONG_RUN_INTERVAL_S)])
def test_lines_are_due_every_few_seconds(clock, step_s, interval_s):
    pace, due = Pace(clock), 0
    for _ in range(20):
        clock.now += step_s
        due += pace.is_due()
    assert due == min(20, int(20 * step_s / interval_s))


def test_durations():
    assert [duration(seconds) for seconds in (0.4, 83.0, 3_661.0)] == ["0:00:00", "0:01:23", "1:01:01"]
