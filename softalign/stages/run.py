"""One step of a chain: what is already there is reused, what is missing runs.

A stage's key holds its configuration, its parents' digests and what its sources and base model are now, so the same
key means the same answer. ``plan`` says beforehand what would run and why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from softalign.artifacts import Record, Usage
from softalign.config.recipe import Recipe
from softalign.errors import MissingInputError
from softalign.processes.launch import leads
from softalign.processes.supervise import OnLine
from softalign.run_context import log_fields
from softalign.stages.accounting import accounted, usage_of_reused
from softalign.stages.gpu_slots import gpus_of
from softalign.stages.metrics_file import note_stage
from softalign.stages.narration import figures, headline, place
from softalign.stages.published import Published
from softalign.stages.requests import StageInputs, StageRequest, asking
from softalign.stages.table import Step, steps_of
from softalign.stages.turns import Turn, turn_of
from softalign.store.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult:
    """What one step returned: its record, whether it was already there, and its counts and figures in a line.

    ``usage`` is what its attempts cost, whenever that was; None: it is not known.
    """

    label: str
    record: Record
    is_reused: bool
    seconds: float
    figures: str = ""
    place: str = ""
    usage: Usage | None = None

    @property
    def message(self) -> str:
        """One line for logs."""
        if self.is_reused:
            return f"{self.place or self.label}: already there, reused"
        return f"{self.label}: done in {self.seconds:.1f} s{'; ' if self.figures else ''}{self.figures}"

    def say(self, on_line: OnLine) -> None:
        """Say the line."""
        with log_fields(stage=self.label, stage_key=short_key(self.record.stage_key)):
            on_line(self.message)


def short_key(key: str) -> str:
    """Return as much of a stage key as tells one from another."""
    return key[:16]


def run_step(step: Step, published: Published, store: Store, on_line: OnLine) -> StageResult:
    """Run a step, unless its output is already there, and publish it.

    Of attempts at the same time one works; who waited for another's finds what that one published.

    Args:
        step: one of ``steps_of(recipe)``.
        published: what the steps before it published.
        store: where inputs lie and the output goes.
        on_line: takes the lines of child processes.
    """
    given = step.inputs(published, store)
    request = step.row.request(given)
    with log_fields(recipe=step.recipe.name, stage=step.label, stage_key=short_key(request.key)):
        return _run(step, given, request, on_line)


def _run(step: Step, given: StageInputs, request: StageRequest, on_line: OnLine) -> StageResult:
    store = given.store
    found = _reused(step, request, store)
    if found is not None:
        again = step.row.renewal(given, found.record)
        if again is None:
            return found
        return run_renewal(step, given, again, on_line)
    if step.row.name == "train" and not leads(step.recipe.runtime):
        return _work(step, given, request, on_line)  # along with rank 0, which has the turn
    with turn_of(store, step.row.name, request.key, lambda: _is_done(step, request, store)) as leases:
        owned = replace(given, store=Store(store.uri, tuple(lease.held for lease in leases)), turn=Turn(leases))
        return _reused(step, request, store) or _work(step, owned, request, on_line)


def run_renewal(step: Step, given: StageInputs, again: StageRequest, on_line: OnLine) -> StageResult:
    """Run a step on what is asked for in place of its published record, and let that count from now on."""
    made = _run(step, given, again, on_line)
    step.row.renewed(given, made.record)
    return made


def _is_done(step: Step, request: StageRequest, store: Store) -> bool:
    return step.row.published(request.key, store) is not None


def _reused(step: Step, request: StageRequest, store: Store) -> StageResult | None:
    """Return what is published for a request already; None where nothing is."""
    started = time.monotonic()
    record = step.row.published(request.key, store)
    if record is None:
        return None
    note_stage(step.recipe.name, step.label, "reused")
    return _result(step, record, started, is_reused=True, usage=usage_of_reused(record, store))


def _work(step: Step, given: StageInputs, request: StageRequest, on_line: OnLine) -> StageResult:
    with _gpus_for(step, given) as on_gpus:
        started = time.monotonic()
        logger.info("%s", headline(step.label, step.row.does, stage_labels(step.recipe)))
        with asking(request, given.store):
            done = accounted(
                request,
                given.store,
                lambda: step.row.work(on_gpus, request.key, on_line),
                uses_gpu=step.row.uses_model,
                note=partial(note_stage, step.recipe.name, step.label),
            )
    shown = figures(done.record, given.store)
    return _result(step, done.record, started, is_reused=False, usage=done.usage, shown=shown)


@contextmanager
def _gpus_for(step: Step, given: StageInputs) -> Iterator[StageInputs]:
    """Hold the GPUs that a step needs, and yield its inputs with them."""
    if not step.row.uses_model:
        yield given
        return
    runtime = step.recipe.runtime
    number = runtime.num_processes if step.row.name == "train" else 1
    with gpus_of(given.store, runtime, number, step.label) as gpus:
        yield replace(given, turn=Turn((*given.turn.leases, *gpus.leases), gpus.environment))


def _result(
    step: Step, record: Record, started: float, *, is_reused: bool, usage: Usage | None, shown: str = ""
) -> StageResult:
    seconds = round(time.monotonic() - started, 3)
    where = place(step.label, stage_labels(step.recipe))
    return StageResult(step.label, record, is_reused, seconds, figures=shown, place=where, usage=usage)


def stage_labels(recipe: Recipe) -> tuple[str, ...]:
    """Return what the steps of a recipe's whole chain are called in logs and plans, in order."""
    return tuple(step.label for step in steps_of(recipe))


def require(step: Step, published: Published, store: Store, *, or_else: str = "repeat with --through") -> Record:
    """Return the published record of a step that must exist already.

    Args:
        step: one of ``steps_of(recipe)``.
        published: what the steps before it published.
        store: where it is looked for.
        or_else: what else makes it, beside its own command; the default is for commands that have ``--through``.

    Raises:
        MissingInputError: it does not; says how to make it.
    """
    row, key = step.row, step.request(published, store).key
    record = row.published(key, store) or row.stand_in(published, key, store)
    if record is None:
        raise MissingInputError(
            f"The {row.name} stage of this recipe has not run in this store.",
            expected=f"{store.prefix(row.name, key)}/{row.record.filename}",
            found="nothing",
            where=store.uri,
            fix=f"run `softalign {row.asked_by} RECIPE` first, with the same --set and --store, or {or_else}",
        )
    return record
