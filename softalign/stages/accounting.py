"""What a stage cost, over all of its attempts on this machine: kept while it is unfinished, and beside its record."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from softalign.artifacts import Record, Usage
from softalign.errors import SoftAlignError
from softalign.processes.metering import metering
from softalign.stages.metrics_file import Outcome
from softalign.stages.requests import StageRequest
from softalign.store.files import write_atomically
from softalign.store.store import Store
from softalign.store.usage import keep_usage, kept_usage, to_json, unfinished_usage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Accounted:
    """A stage's record, and what its attempts cost, in ``usage`` all of them."""

    record: Record
    usage: Usage


def accounted(
    request: StageRequest,
    store: Store,
    work: Callable[[], Record],
    *,
    uses_gpu: bool,
    note: Callable[[Outcome, Usage], None],
) -> Accounted:
    """Do a stage's work, and keep beside the record what it and the failed attempts before it cost.

    Of an attempt whose whole process is killed only its number is known. What a store does not take is left out.

    Args:
        request: what the stage is asked for.
        store: where it publishes.
        work: does it, and returns the published record.
        uses_gpu: it computes on this process's GPU, if that has one.
        note: takes how this attempt ended, and what it alone took.
    """
    path = store.work_path(request.stage, "usage") / f"{request.key}.json"
    before = unfinished_usage(path).plus(Usage(attempts=1))
    with suppress(OSError):
        write_atomically(path, to_json(before))
    outcome: Outcome = "failed"
    with metering() as meter:
        try:
            record = work()
            outcome = "done"
        finally:
            attempt = meter.usage(uses_gpu=uses_gpu)
            usage = before.plus(attempt)
            with suppress(OSError):
                write_atomically(path, to_json(usage))
            note(outcome, attempt)
    try:
        keep_usage(store, record, usage)
    except SoftAlignError as error:
        logger.warning("What %s cost is not kept: %s", request.stage, error.what)
    path.unlink(missing_ok=True)
    return Accounted(record, usage)


def usage_of_reused(record: Record, store: Store) -> Usage | None:
    """Return what a stage that is there already had cost; None where that is not known."""
    with suppress(SoftAlignError):  # of the store: the stage is there all the same
        return kept_usage(store, record)
    return None
