"""A worker of a process pool: ``python -m softalign.engines.worker PARENT_PID NUM_WORKERS SOCKET...``.

One thread for each socket, so that a few small items that wait for a store wait together. It ends when a socket does.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from softalign.engines.exchange import Call, Part, packed, packed_error, unpacked
from softalign.engines.work import Work
from softalign.processes.metering import own_usage
from softalign.processes.supervise import watch_parent

PART_BYTES = 1 << 20
"""Results are sent when there are so many bytes of them: with one more image, the most that a thread holds."""


class Worker:
    """Does calls, with one function for all of its threads.

    Args:
        num_workers: how many of them share this machine.
    """

    def __init__(self, num_workers: int) -> None:
        self._num_workers, self._lock = num_workers, threading.Lock()
        self._made: tuple[bytes, Callable[[Any], Any]] | None = None

    def serve(self, connection: Connection) -> None:
        """Do the calls of a connection until it ends, and this process with it."""
        try:
            while True:
                call = unpacked(connection.recv_bytes())
                for part in self.parts(call):
                    connection.send_bytes(packed(part))
        except (EOFError, ConnectionError):
            os._exit(0)
        finally:
            os._exit(1)

    def parts(self, call: Call) -> Iterator[Part]:
        """Yield the results of a call as they come."""
        results: list[bytes] = []
        num_bytes = 0
        try:
            function = self._function(call.work)
            for item in call.items:
                results.append(packed(function(unpacked(item))))
                num_bytes += len(results[-1])
                if num_bytes >= PART_BYTES:
                    yield Part(tuple(results))
                    results, num_bytes = [], 0
        except Exception as error:  # of any class: it is raised again where the item's result is asked for
            yield Part(tuple(results), is_last=True, error=packed_error(error), usage=own_usage())
            return
        yield Part(tuple(results), is_last=True, usage=own_usage())

    def _function(self, sent: bytes) -> Callable[[Any], Any]:
        with self._lock:
            if self._made is None or self._made[0] != sent:
                work: Work[Any, Any] = unpacked(sent)
                if work.share_machine is not None:
                    work.share_machine(self._num_workers)
                self._made = (sent, work.make(*work.arguments))
            return self._made[1]


def main(parent_pid: int, num_workers: int, sockets: list[int]) -> None:
    """Serve the sockets until one of them ends."""
    watch_parent(parent_pid)
    warnings.simplefilter("ignore")  # what libraries say of single items; their results say what matters
    worker = Worker(num_workers)
    first, *others = [Connection(number) for number in sockets]
    for connection in others:
        threading.Thread(target=worker.serve, args=(connection,), daemon=True).start()
    worker.serve(first)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), [int(number) for number in sys.argv[3:]])
