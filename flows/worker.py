"""A worker whose runs survive it: ``python -m flows.worker --pool POOL [--name NAME] [--limit N]``.

It is Prefect's process worker, and besides

- sees to runs that have lost their process, its own and its neighbours': when it starts, and every minute;
- at SIGTERM or Ctrl-C takes no more runs, lets its flows write their checkpoints, and queues them again;
- queues a run again whose process was killed or stopped by others.

A run that is cancelled stays so.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flows.worker_settings import WorkerOptions, harden


def command(
    pool: Annotated[str, typer.Option(help="the work pool; made where there is none")],
    name: Annotated[str | None, typer.Option(help="of this worker; one of its own by default")] = None,
    limit: Annotated[int, typer.Option(min=1, help="runs at a time")] = WorkerOptions.limit,
    grace_s: Annotated[float, typer.Option(min=0, help="seconds that flows may take to stop")] = WorkerOptions.grace_s,
    look_every_s: Annotated[
        float, typer.Option(min=1, help="seconds between looks for runs that have lost their process")
    ] = WorkerOptions.look_every_s,
) -> None:
    """Run the flows of a work pool as processes of this machine, and see to runs that have lost theirs."""
    harden()
    from flows.server.working import work  # Prefect reads the settings when it is imported

    work(WorkerOptions(pool=pool, name=name, limit=limit, grace_s=grace_s, look_every_s=look_every_s))


def main() -> int:
    """Run the command, and return its exit code: 0 when it was stopped."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
