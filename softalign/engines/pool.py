"""Work in several processes of this machine: calls of a few items, results in order, items of a lost process redone.

Each worker has up to ``NUM_CONNECTIONS`` calls at a time, so it is never idle while this process is at something else.
The items of a call whose worker died are done once more one by one, in a worker that does nothing else: so an item
that kills its process is known by name, and those that were beside it are not suspected.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

from softalign.engines.exchange import Call, Part, packed, unpacked
from softalign.engines.in_flight import InFlight
from softalign.engines.work import InProcess, ItemT, ResultT, Work
from softalign.engines.worker_process import NUM_CONNECTIONS, WorkerProcess
from softalign.errors import WorkerDiedError
from softalign.processes.metering import note_child

logger = logging.getLogger(__name__)

ITEMS_PER_CALL = 8
"""Of small items: a message costs 0.2 ms, an image 5 ms."""
CALL_BYTES = 1 << 20
"""A call ends with the item that makes it larger: tables hand images over with their items."""
CALLS_AHEAD = 6
"""Calls begun or done for each that can be under way: results wait for their turn while one takes longer.

Measured: two workers that read images and now and then pack a shard of 512, which takes as long as 200 images, do 6 %
more than with 2. Bytes are bounded apart from it, by ``InFlight``.
"""
MAX_DEATHS = 2
"""How many workers an item may kill that does nothing else meanwhile."""
ALONE = -1
"""The number of the worker that does items one by one."""
_CLOSING_TIMEOUT_S = 5.0


@dataclass(slots=True)
class _Batch:
    """The items of a call, pickled, and what has become of them: parts in order, or what ended them."""

    order: int
    items: tuple[bytes, ...]
    parts: queue.SimpleQueue[Part | BaseException] = field(default_factory=queue.SimpleQueue)

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.items))


class ProcessPool:
    """Worker processes that are started when first needed, and kept for further work.

    Args:
        num_processes: how many there are.
        starting_after_s: seconds for which this process does a work itself first: a short one, all of it.
        items_per_call: of small items; others are sent one by one.
    """

    def __init__(
        self, num_processes: int, *, starting_after_s: float = 0.0, items_per_call: int = ITEMS_PER_CALL
    ) -> None:
        self.num_processes, self._starting_after_s, self.items_per_call = (
            num_processes,
            starting_after_s,
            items_per_call,
        )
        self._workers: dict[int, WorkerProcess] = {}
        self._lock, self.alone = threading.Lock(), threading.Lock()

    def map(self, work: Work[ItemT, ResultT], items: Iterable[ItemT]) -> Generator[ResultT]:
        """Yield the results in the items' order; see ``Engine``. When it is closed early the workers are stopped."""
        rest = iter(items)
        if self._starting_after_s:
            yield from InProcess().map(work, _within(self._starting_after_s, rest))
        first = list(islice(rest, 1))
        if first:
            with _running(self, work) as run:
                yield from run.results(chain(first, rest))

    def worker(self, number: int) -> WorkerProcess:
        """Return a worker, which is started if there is none with this number."""
        with self._lock:
            if number not in self._workers:
                self._workers[number] = WorkerProcess(self.num_processes)
            return self._workers[number]

    def lost(self, number: int, worker: WorkerProcess) -> str:
        """Take note of a worker's death and return what is known of it; the next one gets its number."""
        with self._lock:
            is_first = self._workers.get(number) is worker
            if is_first:
                del self._workers[number]
            how = worker.last_words()
        if is_first:
            logger.warning("A worker process died (%s): its items are done again", how.partition("\n")[0])
        return how

    def stop(self) -> None:
        """Stop all workers; the next work starts new ones."""
        with self._lock:
            for worker in self._workers.values():
                worker.stop()
            self._workers.clear()


def _within(seconds: float, items: Iterator[ItemT]) -> Iterator[ItemT]:
    """Yield what is asked for within some seconds; the rest stays."""
    end = time.monotonic() + seconds
    for item in items:
        yield item
        if time.monotonic() >= end:
            return


@contextmanager
def _running(pool: ProcessPool, work: Work[Any, Any]) -> Iterator[_Run]:
    """Yield a run; if it is left early the workers are stopped, and what they were at is forgotten."""
    run = _Run(pool, work)
    try:
        yield run
    except BaseException:
        run.end()
        pool.stop()
        run.join()
        pool.stop()  # what a thread started meanwhile
        raise
    run.end()


class _Run:
    """One work on its way through the pool: a thread for each call that can be under way."""

    def __init__(self, pool: ProcessPool, work: Work[Any, Any]) -> None:
        self._pool, self._work = pool, work
        self._sent = packed(replace(work, made=None))
        self._size = pool.items_per_call if work.num_threads > 1 else 1
        self._flight, self._is_over = InFlight(), False
        self._todo: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        calls = min(NUM_CONNECTIONS, work.num_threads)
        places = [(number, call) for call in range(calls) for number in range(pool.num_processes)]
        self._threads = [threading.Thread(target=self._serve, args=place, daemon=True) for place in places]
        for thread in self._threads:
            thread.start()

    def results(self, items: Iterator[Any]) -> Iterator[Any]:
        """Yield the results in the items' order."""
        pending: deque[_Batch] = deque()
        for order, chunk in enumerate(self._chunks(items)):
            batch = _Batch(order, chunk)
            self._flight.add(batch.num_bytes)
            self._todo.put(batch)
            pending.append(batch)
            while pending and (len(pending) >= CALLS_AHEAD * len(self._threads) or self._flight.is_full):
                yield from self._results_of(pending.popleft())
        while pending:
            yield from self._results_of(pending.popleft())

    def end(self) -> None:
        """End the threads; those that are at a call do so once that has ended."""
        self._is_over = True
        self._flight.end()
        for _ in self._threads:
            self._todo.put(None)

    def join(self) -> None:
        """Wait for the threads, whose workers were stopped."""
        for thread in self._threads:
            thread.join(_CLOSING_TIMEOUT_S)

    def _chunks(self, items: Iterator[Any]) -> Iterator[tuple[bytes, ...]]:
        chunk: list[bytes] = []
        num_bytes = 0
        for item in items:
            chunk.append(packed(item))
            num_bytes += len(chunk[-1])
            if len(chunk) == self._size or num_bytes >= CALL_BYTES:
                yield tuple(chunk)
                chunk, num_bytes = [], 0
        if chunk:
            yield tuple(chunk)

    def _results_of(self, batch: _Batch) -> Iterator[Any]:
        self._flight.turn_of(batch.order)
        is_last = False
        while not is_last:
            part = batch.parts.get()
            if isinstance(part, BaseException):
                raise part
            for result in part.results:
                yield unpacked(result)
            self._flight.add(-part.num_bytes)
            if part.usage is not None:
                note_child(part.usage)
            part.require()
            is_last = part.is_last
        self._flight.add(-batch.num_bytes)

    def _serve(self, number: int, call: int) -> None:
        """Have one batch after the other done by a worker, over one of its connections."""
        while (batch := self._todo.get()) is not None and not self._is_over:
            try:
                self._do(batch, number, call)
            except BaseException as error:  # it is raised where the results are asked for
                batch.parts.put(error)

    def _do(self, batch: _Batch, number: int, call: int) -> None:
        worker, num_done = self._pool.worker(number), 0
        try:
            for part in self._parts(worker, call, batch.items, batch.order):
                num_done += len(part.results)
                self._put(batch, part)
        except (EOFError, OSError):
            if not self._is_over:
                self._pool.lost(number, worker)
                self._do_alone(batch, num_done)

    def _parts(
        self, worker: WorkerProcess, call: int, items: tuple[bytes, ...], order: int | None = None
    ) -> Iterator[Part]:
        """Yield what a worker answers; ``order`` waits for room before each part.

        Raises:
            EOFError, OSError: the worker is gone.
        """
        connection, is_last = worker.connections[call], False
        connection.send_bytes(packed(Call(self._sent, items)))
        while not is_last:
            if order is not None:
                self._flight.wait(order)
            part: Part = unpacked(connection.recv_bytes())
            is_last = part.is_last
            yield part

    def _put(self, batch: _Batch, part: Part) -> None:
        self._flight.add(part.num_bytes)
        batch.parts.put(part)

    def _do_alone(self, batch: _Batch, num_done: int) -> None:
        """Do the rest of a batch one by one, and no other batch's meanwhile; it waits for no room, as it is short."""
        with self._pool.alone:
            for item in batch.items[num_done:]:
                for part in self._try_alone(item):
                    self._put(batch, replace(part, is_last=part.error is not None))
            batch.parts.put(Part((), is_last=True))

    def _try_alone(self, item: bytes) -> list[Part]:
        found = ""
        for _ in range(MAX_DEATHS):
            if self._is_over:  # nobody waits for it, and nobody would stop its worker
                return []
            worker = self._pool.worker(ALONE)
            try:
                return list(self._parts(worker, 0, (item,)))
            except (EOFError, OSError):
                found = self._pool.lost(ALONE, worker)
        raise WorkerDiedError(
            "An item killed each worker process that did it.",
            expected=f"at most {MAX_DEATHS} that die of it",
            found=found,
            where=self._work.name_of(unpacked(item)),
            fix="look at the memory of this machine (SIGKILL is most often the kernel's, when there is none left), "
            "or leave the item out",
        )
