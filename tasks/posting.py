"""What is left for people at the orchestrator, at best: the work never waits long for a server, or fails by it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextvars import copy_context

logger = logging.getLogger(__name__)

TIMEOUT_S = 30.0
"""How long a task waits for its artifact; the thread goes on meanwhile, and ends with the process."""


def post(what: str, call: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    """Call the server in a thread; what it refuses, or does not answer in time, is said in a warning and left out.

    Args:
        what: what is posted, as the beginning of the warning.
        call: hands it to the server.
        timeout_s: how long to wait for it.
    """
    thread = start_posting(what, call)
    thread.join(timeout_s)
    if thread.is_alive():
        logger.warning("%s is not shown at the orchestrator yet: no answer in %g s", what, timeout_s)


def start_posting(what: str, call: Callable[[], object], level: int = logging.WARNING) -> threading.Thread:
    """Begin to call the server in a thread that knows which run this is, and return the thread.

    Args:
        what: what is posted, as the beginning of the line where the server refuses it.
        call: hands it to the server.
        level: of that line.
    """

    def attempt() -> None:
        try:
            call()
        except Exception as error:  # whatever it is: the work goes on, and its files are the truth
            logger.log(level, "%s is not shown at the orchestrator: %s", what, error)

    thread = threading.Thread(target=copy_context().run, args=(attempt,), daemon=True)
    thread.start()
    return thread
