"""A real SIGKILL at a chosen point, in a forked child: no interpreter to start, so that many points can be tried."""

import os
import signal
import threading
import time
import traceback
from contextlib import suppress

import psutil


class Fuse:
    """Kills its process at the n-th call of any function it wraps."""

    def __init__(self, num_calls):
        self.num_left = num_calls
        self._lock = threading.Lock()

    def wrap(self, call):
        def wrapped(*args, **kwargs):
            with self._lock:
                self.num_left -= 1
                if self.num_left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped


def children_at(title, process=None):
    """Return the processes below this one (or a given one) whose command line has ``title``; dead ones have none."""
    found = []
    for child in (process or psutil.Process()).children(recursive=True):
        with suppress(psutil.Error):
            if title in " ".join(child.cmdline()):
                found.append(child)
    return found


def exit_codes(work, num_ranks):
    """Run ``work(rank)`` in forked children; once one has failed kill the others; return all exit codes."""
    running = {rank: _fork(lambda rank=rank: work(rank)) for rank in range(num_ranks)}
    codes = {}
    while running:
        for rank, pid in list(running.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                codes[rank] = os.waitstatus_to_exitcode(status)
                del running[rank]
        if any(codes.values()):
            for pid in running.values():
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[rank] for rank in range(num_ranks)]


def _fork(work):
    child = os.fork()
    if child == 0:
        try:
            os._exit(work() or 0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def is_killed(work):
    """Run ``work()`` in a forked child; return whether it died by SIGKILL (False: it finished)."""
    child = _fork(lambda: work() and 0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, -signal.SIGKILL}, f"the child failed with {code}; see its traceback on stderr"
    return code != 0
