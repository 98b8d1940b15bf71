"""The engine that a recipe's runtime names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from softalign.config.engine import RayEngine
from softalign.config.runtime import Runtime
from softalign.engines.work import Engine, InProcess


@contextmanager
def open_engine(runtime: Runtime) -> Iterator[Engine]:
    """Yield the engine of a run, and leave its cluster afterwards.

    Raises:
        ConfigError: ``runtime.engine`` is Ray's, and Ray is not installed, or the cluster has too little for one call.
        WorkerDiedError: the cluster does not answer.
    """
    if isinstance(runtime.engine, RayEngine):
        from softalign.engines.on_ray import joined

        with joined(runtime.engine, device=runtime.device) as cluster:
            yield cluster
    else:
        yield InProcess()
