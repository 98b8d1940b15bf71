"""What an engine is given: a function that each process makes once, and items that it is applied to, in order.

The function's result depends on its arguments and the item alone, so it does not matter which process called it, or how
often.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from softalign.store.read_ahead import map_ahead

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def _shortened(item: object) -> str:
    return repr(item)[:200]


@dataclass(frozen=True)
class Work(Generic[ItemT, ResultT]):
    """What is done with each item.

    Attributes:
        make: a module's function that returns the function of an item; a process calls it once, so it may load a model.
        arguments: of ``make``: records that can be compared and sent to another machine.
        uses_model: it may need a GPU.
        num_threads: above 1 items are small and mostly wait, such as one image to read: so many threads do them, and a
            cluster's call takes several.
        made: the function, where this process has made it already; other processes make it of the arguments.
        name_of: what an item is called in errors.
        share_machine: called in each of several processes of one machine, before anything is made, with their number.
    """

    make: Callable[..., Callable[[ItemT], ResultT]]
    arguments: tuple[Any, ...] = ()
    uses_model: bool = False
    num_threads: int = 1
    made: Callable[[ItemT], ResultT] | None = field(default=None, compare=False)
    name_of: Callable[[ItemT], str] = _shortened
    share_machine: Callable[[int], None] | None = None


class Engine(Protocol):
    """Does work with items. An item is sent to where it is done, and its result comes back: bytes, not paths."""

    def map(self, work: Work[ItemT, ResultT], items: Iterable[ItemT]) -> Generator[ResultT]:
        """Yield the results in the items' order; items are taken as results are asked for, some ahead.

        Raises:
            Exception: what the work raised, at that item's turn; errors of this library as themselves.
            WorkerDiedError: the processes that did it died time and again.
        """
        ...


class InProcess:
    """This process does the work: an item when its result is asked for, with several threads some items ahead."""

    def map(self, work: Work[ItemT, ResultT], items: Iterable[ItemT]) -> Generator[ResultT]:
        """Yield the results in the items' order; see ``Engine``."""
        function = work.made
        if work.num_threads > 1:
            yield from map_ahead(function or work.make(*work.arguments), items, work.num_threads)
            return
        for item in items:
            function = function or work.make(*work.arguments)
            yield function(item)
