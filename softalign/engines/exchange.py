"""What a process pool and its workers say to one another, over a socket that nobody else has.

Items and results are pickled one by one, so that their bytes can be counted before they are in memory twice. A pickle
comes from this program's own child or parent alone; none is ever stored.
"""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from typing import Any

from softalign.errors import SoftAlignError, UnexpectedError
from softalign.processes.messages import Failure
from softalign.processes.metering import ChildUsage


@dataclass(frozen=True, slots=True)
class Call:
    """Some items to be done: the work and each item, pickled."""

    work: bytes
    items: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Some results of a call, each pickled, in the items' order.

    Attributes:
        is_last: nothing follows.
        error: what the item after these results raised; it ends the call.
        usage: what the worker has taken by now; with the last part.
    """

    results: tuple[bytes, ...]
    is_last: bool = False
    error: Failure | bytes | None = None
    usage: ChildUsage | None = None

    @property
    def num_bytes(self) -> int:
        """Of the results."""
        return sum(map(len, self.results))

    def require(self) -> None:
        """Raise the error, if there is one, as the class it was raised as."""
        if isinstance(self.error, Failure):
            raise self.error.to_error()
        if self.error is not None:
            raise unpacked(self.error)


def packed(value: object) -> bytes:
    """Return a value as bytes."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def unpacked(data: bytes) -> Any:
    """Return the value of such bytes."""
    return pickle.loads(data)  # noqa: S301


def packed_error(error: Exception) -> Failure | bytes:
    """Return an error so that it can be raised again elsewhere; one that cannot be sent as a bug, with its text."""
    if isinstance(error, SoftAlignError):
        return Failure.of(error)
    error.add_note("".join(traceback.format_exception(error)))
    try:
        data = packed(error)
        unpacked(data)
    except Exception:  # whatever its class does when it is copied
        lines = "".join(traceback.format_exception(error))
        return Failure.of(UnexpectedError("A worker process met an unexpected error.", found=lines[-4000:]))
    return data
