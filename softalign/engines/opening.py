"""The engine that a recipe's runtime names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from softalign.config.engine import RayEngine
from softalign.config.runtime import Runtime
from softalign.engines.work import Engine, InProcess
from softalign.errors import ConfigError

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
        yield InProcess()
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
