"""A real SIGKILL at a chosen point, in a forked child: no interpreter to start, so that many points can be tried."""

import os
import signal
import threading
import traceback


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


def is_killed(work):
    """Run ``work()`` in a forked child; return whether it died by SIGKILL (False: it finished)."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, -signal.SIGKILL}, f"the child failed with {code}; see its traceback on stderr"
    return code != 0
