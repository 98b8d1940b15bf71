"""Whose turn it is: of all that need one stage's output, on this machine or others, one works at a time.

In a folder a file lock says so, which goes with its process. In a store that several machines share (``s3://``) it is
a lease of the stage key; who holds it is looked up again before anything is published.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from softalign.artifacts import Stage
from softalign.processes.locking import exclusive
from softalign.store.leases import Contender, Lease, waited_for
from softalign.store.store import Store


@dataclass(frozen=True, slots=True)
class Turn:
    """What a stage holds while it works.

    Attributes:
        leases: the work ends when one of them is lost.
        environment: what its child processes get besides the inherited environment.
    """

    leases: tuple[Lease, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def require(self) -> None:
        """Refuse to go on with a lease that is lost.

        Raises:
            LeaseLostError: one is.
        """
        for lease in self.leases:
            lease.require()


@contextmanager
def turn_of(store: Store, stage: Stage, key: str, is_done: Callable[[], bool]) -> Iterator[tuple[Lease, ...]]:
    """Wait until it is this process's turn to work on a stage key, or its output is there.

    Args:
        store: where the output goes.
        stage: the stage.
        key: its key.
        is_done: looks whether the output is there.

    Yields:
        The leases that say so; none where the store is a folder, or there is nothing left to do.
    """
    if store.is_local:
        folder = store.work_path(stage, "turns") / key
        with exclusive(folder):
            yield ()
            shutil.rmtree(folder, ignore_errors=True)
        return
    lease = waited_for(Contender(store.uri, f"stages/{stage}/{key}"), f"{stage} {key[:8]}, at work elsewhere", is_done)
    if lease is None:
        yield ()
        return
    with lease.kept():
        yield (lease,)
