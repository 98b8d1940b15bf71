"""The engine that a recipe's runtime names."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from softalign.config.engine import LocalEngine, RayEngine
from softalign.config.runtime import Runtime
from softalign.engines.cores import num_cores
from softalign.engines.pool import ProcessPool
from softalign.engines.work import Engine, InProcess, ItemT, ResultT, Work
from softalign.errors import ConfigError

STARTING_AFTER_S = 3.0
"""Seconds for which ``auto`` does a work in the stage's own process. A worker costs 0.6 s of a processor to start: for
2,000 scenes of the embedded world, which are read in 2 s, two took 40 % more processor time than none."""
MAX_WORKERS = 16
"""Of ``auto``: so many keep the stage's own process busy, which takes 0.2 ms of an image's 4."""

TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Of these Ray takes a cluster's token; to an address that is named it sends none unless RAY_AUTH_MODE says so."""


@contextmanager
def open_engine(runtime: Runtime) -> Iterator[Engine]:
    """Yield the engine of a run, and leave its cluster afterwards.

    Raises:
        ConfigError: ``runtime.engine`` is Ray's, and Ray is not installed, or the cluster has too little for one call.
        WorkerDiedError: the cluster does not answer.
    """
    if not isinstance(runtime.engine, RayEngine):
        with _processes(runtime.engine, runtime.device) as here:
            yield here
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if any(name in os.environ for name in TOKEN_VARIABLES):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported
    try:
        from softalign.engines.on_ray import joined
    except ImportError as error:
        raise ConfigError(
            "Ray is not installed.",
            expected="the package ray, as runtime.engine.name is ray",
            found=str(error),
            where="runtime.engine",
            fix="pip install 'softalign[ray]' here and on the cluster's machines; or set runtime.engine.name=local",
        ) from error
    with joined(runtime.engine, device=runtime.device) as cluster:
        yield cluster


@contextmanager
def _processes(config: LocalEngine, device: Literal["auto", "cpu", "cuda"]) -> Iterator[Engine]:
    is_auto = config.num_processes == "auto"
    number = min(num_cores(), MAX_WORKERS) if config.num_processes == "auto" else config.num_processes
    if number == 1:
        yield InProcess()
        return
    pool = ProcessPool(number, starting_after_s=STARTING_AFTER_S if is_auto else 0.0)
    try:
        yield LocalProcesses(pool, device, is_auto=is_auto)
    finally:
        pool.stop()


class LocalProcesses:
    """Worker processes for what gains by them, and this process for the rest.

    Args:
        pool: the workers.
        device: the run's; a GPU's models stay in this process.
        is_auto: the workers do what consists of many small items, and nothing that loads a model; else all.
    """

    def __init__(self, pool: ProcessPool, device: Literal["auto", "cpu", "cuda"], *, is_auto: bool) -> None:
        self._pool, self._device, self._is_auto = pool, device, is_auto

    def map(self, work: Work[ItemT, ResultT], items: Iterable[ItemT]) -> Generator[ResultT]:
        """Yield the results in the items' order; see ``Engine``."""
        engine: Engine = self._pool if self._gains(work) else InProcess()
        return engine.map(work, items)

    def _gains(self, work: Work[ItemT, ResultT]) -> bool:
        if self._is_auto:
            return work.num_threads > 1 and not work.uses_model
        if not work.uses_model or self._device != "auto":
            return not work.uses_model or self._device == "cpu"
        import torch  # which the model needs anyhow

        return not torch.cuda.is_available()
