"""What a child says arrives as it was; what anyone else prints is a plain line and disturbs nothing."""

import io
import json
import logging
import os
import subprocess
import sys

import pytest

from softalign.errors import CompatibilityError
from softalign.processes.messages import (
    Channel,
    ChannelHandler,
    Failure,
    LogLine,
    Result,
    from_line,
    plain_text,
    to_line,
)
from softalign.processes.progress import Figure, StageProgress

PROGRESS = StageProgress(
    stage="train",
    unit="step",
    done=4,
    total=30,
    num_reused=2,
    elapsed_s=1.5,
    figures=(
        Figure(name="loss", value=0.25),
        Figure(name="kept", value=3),
        Figure(name="weight", value=None, chance=0.5),
    ),
)
FAILURE = Failure.of(CompatibilityError("wrong base", expected="a", found="b\nc", where="d\udc80", fix="e"))


@pytest.mark.parametrize(
    "message",
    [LogLine(text="line\n  with ü"), PROGRESS, Result(payload={"a": [1, 2.5, None, "\udc80"]}), FAILURE],
    ids=lambda message: message.kind,
)
def test_every_kind_survives_its_line(message):
    line = to_line(message)
    assert line.count("\n") == 1 and line.isascii()
    assert from_line(line) == message


def test_an_error_keeps_its_class_and_parts():
    error = FAILURE.to_error()
    assert isinstance(error, CompatibilityError)
    assert (error.what, error.found, error.fix) == ("wrong base", "b\nc", "e")


@pytest.mark.parametrize(
    "line",
    [
        "Loading weights: 40%",
        "",
        "7",
        "null",
        '{"kind": "progress"}',
        '{"kind": "unheard of", "text": "x"}',
        '{"text": "x"}',
        to_line(PROGRESS)[:-10],
        "x" + to_line(PROGRESS).rstrip(),
        "[" * 100_000,
    ],
    ids=lambda line: line[:20],
)
def test_what_is_no_message_is_a_plain_line(line):
    assert from_line(line + "\n") == LogLine(text=line)


@pytest.mark.parametrize(
    ("printed", "text"),
    [
        ("\x1b[1;31mred\x1b[0m\x1b[K", "red"),
        ("\x1b]0;title\x07 bell\x07 and \x1b]8;;http://x\x1b\\link", " bell and link"),
        ("back\x08space, \x00 null, \x9bcsi\x7f", "backspace,  null, csi"),
        ("tab\tand\nlines\n", "tab\tand\nlines"),
        ("no unicode: \udc80", "no unicode: \\udc80"),
        ("cut off \x1b", "cut off "),
    ],
)
def test_a_plain_line_has_no_control_characters(printed, text):
    assert plain_text(printed) == text
    plain_text(printed).encode()


def test_log_records_are_sent_as_lines():
    stream = io.StringIO()
    logger = logging.Logger("x")
    logger.addHandler(ChannelHandler(Channel(stream)))
    logger.warning("%d \x1b[1mimages\x1b[0m", 3)
    assert from_line(stream.getvalue()) == LogLine(text="3 images", level="warning", logger="x")


def test_a_parent_that_is_gone_does_not_end_the_work():
    reader, writer = os.pipe()
    os.close(reader)
    channel = Channel(os.fdopen(writer, "w", closefd=False))
    channel.send(PROGRESS)
    channel.send(PROGRESS)
    os.close(writer)


def test_prints_go_elsewhere_than_messages():
    program = (
        "import os, subprocess, sys\n"
        "from softalign.processes.messages import Channel, Result\n"
        "print('early')\n"
        "channel = Channel.over_stdout()\n"
        "print('no line end', end='', flush=True)\n"
        "os.write(1, b'from below')\n"
        "subprocess.run(['echo', 'from another program'])\n"
        "channel.send(Result(payload=1))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    early, message = done.stdout.splitlines()
    assert early == "early"
    assert json.loads(message) == {"kind": "result", "payload": 1}
    assert done.stderr == "no line endfrom belowfrom another program\n"
