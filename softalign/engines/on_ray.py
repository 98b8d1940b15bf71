"""Work in the processes of a Ray cluster: calls in flight a few ahead, results in order, lost calls done again.

Ray keeps a process for further calls, so what ``Work.make`` returns, a loaded model say, is made once in each. A call
whose process or machine is lost is submitted again by Ray itself.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any, Generic, Literal

import ray
from ray.exceptions import RayError, RayTaskError

from softalign.config.engine import RayEngine
from softalign.engines.work import InProcess, ItemT, ResultT, Work
from softalign.errors import ConfigError, SoftAlignError, WorkerDiedError
from softalign.processes.messages import Failure

logger = logging.getLogger(__name__)

CALLS_AHEAD = 2
"""Calls in flight for each that can run: enough that no process waits for the next."""
MAX_RESUBMISSIONS = 5
"""How often a call may lose its process: more often, and it is the call that kills it (out of memory, say)."""


@contextmanager
def joined(config: RayEngine, *, device: Literal["auto", "cpu", "cuda"]) -> Iterator[RayCluster]:
    """Yield the configured cluster; where this process belongs to one already, that one, which is not left then.

    Raises:
        ConfigError: no machine of the cluster has what one call takes.
        WorkerDiedError: it does not answer.
    """
    is_member = ray.is_initialized()
    if not is_member:
        _join(config.address)
    try:
        yield RayCluster(config, device)
    finally:
        if not is_member:
            ray.shutdown()


def _join(address: str | None) -> None:
    own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        with _keeping_sigterm():
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.WARNING,
                **({} if address else own),
            )
    except (ConnectionError, RuntimeError, TimeoutError, RayError) as error:
        raise WorkerDiedError(
            "The Ray cluster does not answer.",
            expected="a running cluster, and its token in RAY_AUTH_TOKEN or ~/.ray/auth_token",
            found=str(error).strip().partition("\n")[0][:300],
            where=f"runtime.engine.address {address}",
            fix="start it (`ray start --head`; elsewhere `ray start --address=HOST:6379`), or correct the address",
        ) from error


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Keep what SIGTERM does in this process: Ray's own handler ends it with another exit code."""
    is_main = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, previous)


class RayCluster:
    """The cluster that this process has joined.

    Args:
        config: what a call takes.
        device: the run's; with ``cpu``, or on a cluster without GPUs, calls take none.

    Raises:
        ConfigError: a GPU is asked for and the cluster has none.
    """

    def __init__(self, config: RayEngine, device: Literal["auto", "cpu", "cuda"]) -> None:
        self._num_cpus, self._items_per_call = config.num_cpus_per_task, config.items_per_call
        has_gpus = ray.cluster_resources().get("GPU", 0.0) > 0
        if device == "cuda" and not has_gpus:
            raise ConfigError(
                "The Ray cluster has no GPU.",
                expected="a machine with one, as runtime.device is cuda",
                found=str({name: number for name, number in ray.cluster_resources().items() if name in {"CPU", "GPU"}}),
                where=f"runtime.engine.address {config.address}",
                fix="start GPU machines with `ray start --num-gpus=N`, or set runtime.device=auto",
            )
        self._num_gpus = config.num_gpus_per_task if has_gpus and device != "cpu" else 0.0

    def map(self, work: Work[ItemT, ResultT], items: Iterable[ItemT]) -> Generator[ResultT]:
        """Yield the results in the items' order; see ``Engine``. What is in flight when it is closed is cancelled."""
        num_gpus = self._num_gpus if work.uses_model else 0.0
        call = ray.remote(_call).options(
            num_cpus=self._num_cpus,
            num_gpus=num_gpus,
            max_retries=MAX_RESUBMISSIONS,
        )
        if self._num_parallel(num_gpus) < 1:
            logger.warning("The Ray cluster has no room for a call; waiting until a machine joins")
        sent = ray.put(replace(work, made=None))
        pending: deque[Any] = deque()
        try:
            for chunk in _chunks(items, self._items_per_call if work.num_threads > 1 else 1):
                pending.append(call.remote(sent, chunk))
                if len(pending) >= CALLS_AHEAD * max(1, self._num_parallel(num_gpus)):
                    yield from _results(pending.popleft())
            while pending:
                yield from _results(pending.popleft())
        finally:
            if ray.is_initialized():
                for reference in pending:
                    ray.cancel(reference)

    def _num_parallel(self, num_gpus: float) -> int:
        """Return how many calls can run at once; asked anew each time, as clusters grow and shrink."""
        there, taken = ray.cluster_resources(), {"CPU": self._num_cpus, "GPU": num_gpus}
        return min((int(there.get(name, 0.0) / number) for name, number in taken.items() if number), default=1)


def _chunks(items: Iterable[ItemT], size: int) -> Iterator[tuple[ItemT, ...]]:
    rest = iter(items)
    return iter(lambda: tuple(islice(rest, size)), ())


@dataclass(frozen=True)
class _Answer(Generic[ResultT]):
    """The results of a call; ``failure``, an error of this library as a record, takes the place of the others."""

    results: list[ResultT]
    failure: Failure | None = None


def _call(work: Work[ItemT, ResultT], items: tuple[ItemT, ...]) -> _Answer[ResultT]:
    """Do the items of a call in this process of the cluster."""
    results: list[ResultT] = []
    try:
        here = replace(work, made=_made(work.make, work.arguments))
        results.extend(InProcess().map(here, items))
    except SoftAlignError as error:
        return _Answer(results, Failure.of(error))
    return _Answer(results)


@lru_cache(maxsize=1)
def _made(make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> Callable[[Any], Any]:
    return make(*arguments)


def _results(reference: Any) -> Iterator[Any]:
    try:
        answer = ray.get(reference)
    except RayTaskError as error:  # what the work raised, and no error of ours
        raise error.cause if isinstance(error.cause, Exception) else error from error
    except RayError as error:
        raise WorkerDiedError(
            "A call on the Ray cluster was lost time and again.",
            expected=f"at most {MAX_RESUBMISSIONS} lost processes or machines",
            found=str(error).strip()[:1000] or type(error).__name__,
            fix="look at the machines' memory; a larger runtime.engine.num_cpus_per_task runs fewer calls on each",
        ) from error
    yield from answer.results
    if answer.failure is not None:
        raise answer.failure.to_error()
