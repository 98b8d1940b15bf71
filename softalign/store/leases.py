"""Leases in a store: of all machines that share it one holds a name, with nothing but "create unless it exists".

A lease is a folder ``{store}/leases/NAME``. Who takes it creates the next numbered file there (``00000007.json``, a
``Holder``), so that exactly one gets a number; the highest number is the holder's, and is its fencing token. The holder
alone rewrites its own file, every quarter of ``ttl_s``, and at the end to say that it is released.

Why one holds it at a time:

- The next number is created only once the highest holder has released, or is known to be dead (its process, on this
  very machine), or its file has not changed for ``ttl_s`` on the contender's own monotonic clock. No two machines'
  clocks are compared. A holder counts ``ttl_s`` on its own clock from the moment before its last rewrite, so that it
  has given up (``is_lost``) before anyone can follow it, as long as it runs.
- A holder that did not run (stopped, suspended, cut off) may not know that it was followed. So ``require_held`` looks
  for a higher number right before anything is published or registered, and raises where there is one: the fence.
- Lower numbers are removed by who takes the lease; the highest never is. So who creates a number that was there before
  and removed finds a higher one when it looks again, and has taken nothing.
- An answer that is lost on the way, or a request that arrives late, changes nothing: what was created is known by its
  owner, a rewrite of a lower number has no effect, and one that nobody knows of runs out like a dead holder's.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from softalign.errors import LeaseLostError, MissingInputError, SoftAlignError
from softalign.store.files import create_file, open_filesystem, overwrite_file, read_bytes
from softalign.store.holder import Held, Holder
from softalign.store.reaching import reaching

logger = logging.getLogger(__name__)

TTL_S = 60.0
"""A holder that is silent for so long has lost its lease."""
RENEWALS_PER_TTL = 4
POLLS_PER_TTL = 60
"""How often who waits looks: every second."""
SAID_EVERY_S = 60.0
"""Who waits says so again after so long."""
_NUMBERED = re.compile(r"(\d{8,})\.json")

Clock = Callable[[], float]


class Lease:
    """A lease that this process has taken; it is its own as long as it is renewed.

    Args:
        root: the store's URI.
        held: what was taken.
        holder: as it was written.
        renewed_at: on ``clock``, before it was written.
        clock: monotonic seconds.
    """

    def __init__(self, root: str, held: Held, holder: Holder, renewed_at: float, clock: Clock) -> None:
        self._root, self.held, self._holder, self._clock = root, held, holder, clock
        self._renewed_at, self._is_followed = renewed_at, False
        self._ended = threading.Event()

    @property
    def is_lost(self) -> bool:
        """Whether another one may have it: it is followed, or could not be renewed for its ``ttl_s``."""
        return self._is_followed or self._clock() - self._renewed_at >= self._holder.ttl_s

    @property
    def ttl_s(self) -> float:
        """After so many seconds in silence it is lost."""
        return self._holder.ttl_s

    def require(self) -> None:
        """Refuse to go on with a lost lease; asks nobody, so that it may be asked often.

        Raises:
            LeaseLostError: it is lost.
        """
        if self.is_lost:
            raise _lost(self._root, self.held)

    def renew(self) -> None:
        """Say that the holder lives, unless it is followed.

        Raises:
            StorageUnavailableError: the store did not answer.
        """
        begun = self._clock()
        self._is_followed = self._is_followed or _newest(self._root, self.held.name) != self.held.number
        if not self.is_lost:
            self._write(is_released=False)
        self._is_followed = self.is_lost  # for good, also where the store took the rewrite too late
        self._renewed_at = begun

    def release(self) -> None:
        """Let the next one have it at once; where the store does not answer, it waits for ``ttl_s``."""
        self._ended.set()
        if self.is_lost:
            return
        try:
            self._write(is_released=True)
        except SoftAlignError as error:
            logger.warning(
                "%s is free in %g s: it could not be released: %s", self.held.name, self._holder.ttl_s, error
            )

    @contextmanager
    def kept(self) -> Iterator[Self]:
        """Renew it in a thread while the block runs, and release it at the end."""
        thread = threading.Thread(target=self._keep, daemon=True, name=f"lease {self.held.name}")
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join(self._holder.ttl_s)  # a late rewrite would take the release back
            self.release()

    def _keep(self) -> None:
        while not self._ended.wait(self._holder.ttl_s / RENEWALS_PER_TTL) and not self.is_lost:
            try:
                self.renew()
            except SoftAlignError as error:
                left_s = self._renewed_at + self._holder.ttl_s - self._clock()
                logger.warning(
                    "The lease %s is lost in %.0f s if the store stays away: %s", self.held.name, left_s, error
                )

    def _write(self, *, is_released: bool) -> None:
        changes = {"counter": self._holder.counter + 1, "is_released": is_released}
        self._holder = self._holder.model_copy(update=changes)
        overwrite_file(_uri(self._root, self.held.name, self.held.number), self._holder.to_json())


class Contender:
    """Who wants a lease.

    Args:
        root: the store's URI.
        name: of the lease, a path below ``leases``.
        ttl_s: after so long in silence it is lost; None: TTL_S.
        clock: monotonic seconds.
    """

    def __init__(self, root: str, name: str, ttl_s: float | None = None, clock: Clock = time.monotonic) -> None:
        self._root, self.name, self.ttl_s, self._clock = root, name, ttl_s or TTL_S, clock
        self._seen: tuple[int, bytes] = (0, b"")
        self._seen_at = clock()
        self.holder: Holder | None = None

    def attempt(self) -> Lease | None:
        """Take the lease if it is free, and return it; None where another one has it, who then is ``holder``.

        Raises:
            StorageUnavailableError: the store did not answer.
        """
        number = _newest(self._root, self.name)
        if number and not self._may_follow(number):
            return None
        wanted, mine, begun = Held(name=self.name, number=number + 1), Holder.here(self.ttl_s), self._clock()
        if not self._creates(wanted, mine) or _newest(self._root, self.name) != wanted.number:
            return None
        _remove_below(self._root, wanted)
        return Lease(self._root, wanted, mine, begun, self._clock)

    def _may_follow(self, number: int) -> bool:
        try:
            seen = number, read_bytes(_uri(self._root, self.name, number))
        except MissingInputError:  # followed and removed meanwhile
            return False
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
        self.holder = Holder.of(seen[1])
        if self.holder is None:  # half a file, of a machine that lost its power: it runs out
            return self._clock() - self._seen_at >= self.ttl_s
        is_silent = self._clock() - self._seen_at >= self.holder.ttl_s
        return self.holder.is_released or self.holder.is_dead or is_silent

    def _creates(self, wanted: Held, mine: Holder) -> bool:
        uri = _uri(self._root, self.name, wanted.number)
        if create_file(uri, mine.to_json()):
            return True
        with suppress(MissingInputError):
            found = Holder.of(read_bytes(uri))
            return found is not None and found.owner == mine.owner  # created by a request whose answer was lost
        return False


def waited_for(contender: Contender, what: str, give_up: Callable[[], bool] = lambda: False) -> Lease | None:
    """Wait for a lease as long as it takes, and return it; None once there is no need for it.

    Who is waited for, and how long, is said at the beginning and every SAID_EVERY_S.

    Args:
        contender: for the lease.
        what: what is waited for, in the log's lines.
        give_up: looks, between two attempts, whether the lease is still needed.

    Raises:
        StorageUnavailableError: the store did not answer.
    """
    begun, num_said = time.monotonic(), 0
    while (lease := contender.attempt()) is None:
        waited_s = time.monotonic() - begun
        if waited_s >= num_said * SAID_EVERY_S:
            holder = contender.holder or "another process"
            logger.info("Waiting for %s: held by %s; %.0f s so far", what, holder, waited_s)
            num_said += 1
        time.sleep(contender.ttl_s / POLLS_PER_TTL)
        if give_up():
            return None
    return lease


def require_held(root: str, held: Held) -> None:
    """Look in the store whether a lease still is this holder's: the fence before what cannot be taken back.

    Raises:
        LeaseLostError: another one has taken it.
        StorageUnavailableError: the store did not answer.
    """
    if _newest(root, held.name) != held.number:
        raise _lost(root, held)


def _lost(root: str, held: Held) -> LeaseLostError:
    return LeaseLostError(
        "This process no longer holds what it works on: it was silent for too long, and another one may have gone on.",
        expected=f"the lease {held.name} with number {held.number}",
        where=_folder(root, held.name),
        fix="run again: it takes what the other one publishes, or goes on from the last checkpoint",
    )


def _folder(root: str, name: str) -> str:
    return f"{root}/leases/{name}"


def _uri(root: str, name: str, number: int) -> str:
    return f"{_folder(root, name)}/{number:08d}.json"


def _numbers(root: str, name: str) -> list[int]:
    filesystem, path = open_filesystem(_folder(root, name))
    try:
        with reaching(_folder(root, name)):
            filesystem.invalidate_cache()
            listed = filesystem.ls(path, detail=False)
    except MissingInputError:
        return []
    names = [_NUMBERED.fullmatch(str(place).rpartition("/")[2]) for place in listed]
    return sorted(int(found[1]) for found in names if found)


def _newest(root: str, name: str) -> int:
    """Return the highest number; 0 where there is none."""
    return max(_numbers(root, name), default=0)


def _remove_below(root: str, held: Held) -> None:
    """Remove the numbers before this one; what stays is removed by the next holder."""
    for number in _numbers(root, held.name):
        if number < held.number:
            uri = _uri(root, held.name, number)
            filesystem, path = open_filesystem(uri)
            with suppress(SoftAlignError), reaching(uri):
                filesystem.rm_file(path)
