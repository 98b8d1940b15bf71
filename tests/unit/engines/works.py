"""Work for the engines' tests: functions that other processes import."""

import os
import signal
import sys
import time
from pathlib import Path

from softalign.errors import DataError


def doubler(_arguments=None):
    return lambda item: 2 * item


def noter(folder):
    """Note in a file, once a process, that the function was made; its results say which process made them."""
    (Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return lambda item: (time.sleep(0.02), item, os.getpid())[1:]


def dier(marker):
    """Kill the process at item 3, the first time that any process comes to it."""

    def work(item):
        if item == 3:
            try:
                Path(marker).touch(exist_ok=False)
            except FileExistsError:
                return item
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    return work


def always_dier():
    return lambda _item: os.kill(os.getpid(), signal.SIGKILL)


def refuser(kind):
    """Refuse item 5 with an error of ours, or with another one."""

    def work(item):
        if item == 5:
            if kind == "ours":
                raise DataError("Item 5 cannot be used.", expected="another", found="5", where="here", fix="leave it")
            raise NotADirectoryError(20, "Not a directory", "there")
        return item

    return work


def sleeper():
    """Return who did an item that takes a while."""
    return lambda _item: (time.sleep(0.05), os.getpid())[1]


def large(num_bytes):
    return lambda item: bytes([item % 256]) * num_bytes


SHARED = []


def share(num_processes):
    SHARED.append(num_processes)


def sharer():
    return lambda _item: SHARED


def dier_at(number):
    """Kill each process at one item, after some words."""

    def work(item):
        if item == number:
            print("some last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    return work
