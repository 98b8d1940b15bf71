"""Running cells: what is published is found, the rest goes to child processes, several at a time."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from softalign.errors import PreemptedError
from softalign.processes.pace import duration
from softalign.processes.supervise import run_child
from softalign.study.cells import Cell, Cells
from softalign.study.jobs import WORKER, CellJob
from softalign.study.outcomes import CellOutcome, published_outcome

logger = logging.getLogger(__name__)

STALL_MARGIN_S = 120.0
"""A stage's own child may be silent for its whole stall timeout; the cell's child speaks once that is given up."""
Outcomes = Mapping[Cell, CellOutcome]


@dataclass(frozen=True)
class Pool:
    """How cells that are not there are run.

    Attributes:
        num_workers: how many at a time.
    """

    num_workers: int

    @property
    def environment(self) -> dict[str, str]:
        """What child processes get besides the inherited environment: together they use each core once."""
        cores = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        return {"OMP_NUM_THREADS": str(max(1, cores // self.num_workers)), **_set_by_hand()}


def _set_by_hand() -> dict[str, str]:
    return {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}


def run_cells(cells: Cells, asked: Sequence[Cell], pool: Pool, what: str) -> Outcomes:
    """Return what all cells came to; those that are not there are run, each stage from its last checkpoint on.

    Args:
        cells: of the study.
        asked: which.
        pool: where they run.
        what: what they are, for the log.

    Raises:
        SoftAlignError: of the first cell that failed; the others are stopped after a checkpoint.
    """
    found = {cell: published_outcome(cells, cell) for cell in asked}
    done = {cell: outcome for cell, outcome in found.items() if outcome is not None}
    missing = [cell for cell in asked if cell not in done]
    logger.info("%s: %d of %d cells are there, %d to run", what, len(done), len(asked), len(missing))
    done |= dict(_run(cells, missing, pool, what))
    return {cell: done[cell] for cell in asked}


def _run(cells: Cells, missing: Sequence[Cell], pool: Pool, what: str) -> Iterator[tuple[Cell, CellOutcome]]:
    is_stopping, begun = threading.Event(), time.monotonic()
    with ThreadPoolExecutor(pool.num_workers, thread_name_prefix="cell") as threads:
        running = {threads.submit(_in_child, cells, cell, pool, is_stopping): cell for cell in missing}
        try:
            for number, future in enumerate(as_completed(running), start=1):
                outcome, cell = future.result(), running[future]
                left_s = (time.monotonic() - begun) / number * (len(missing) - number)
                said = f"{cell.label}: {outcome.num_run} stages run, the others were there"
                logger.info("%s %d/%d  %s left  %s", what, number, len(missing), duration(left_s), said)
                yield cell, outcome
        finally:
            is_stopping.set()  # by an error or a signal: the children checkpoint and leave
            threads.shutdown(wait=False, cancel_futures=True)


def _in_child(cells: Cells, cell: Cell, pool: Pool, is_stopping: threading.Event) -> CellOutcome:
    recipe = cells.recipe_of(cell)

    def require() -> None:
        if is_stopping.is_set():
            raise PreemptedError(f"{cell.label} was stopped.", fix="the same command goes on")

    require()
    payload = run_child(
        WORKER,
        CellJob(recipe=recipe, store=cells.store.uri).to_json(),
        label=cell.label,
        stall_timeout_s=recipe.runtime.stall_timeout_s + STALL_MARGIN_S,
        on_line=_line_of(cell),
        common=pool.environment,
        require=require,
    )
    return CellOutcome.model_validate(payload)


def _line_of(cell: Cell) -> Callable[[str], None]:
    return lambda line: logger.debug("%s: %s", cell.label, line)
