"""What a recipe would run in a store, and why: nothing is computed, nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from softalign.artifacts import (
    BASE_ARMS,
    Adapter,
    Arm,
    ComparisonReport,
    DatasetManifest,
    EncodedManifest,
    EvalReport,
    Frozen,
    ModelVersion,
    Record,
    Stage,
)
from softalign.config.recipe import Recipe
from softalign.errors import ConfigError, SoftAlignError
from softalign.stages.keys import compare_key, curate_key, encode_key, evaluate_key, register_key, train_key
from softalign.stages.planned_bytes import curate_bytes, encode_bytes, evaluate_bytes, train_bytes
from softalign.stages.preflight import MODEL_STAGES, check_machine, obstacle, uncached_models
from softalign.stages.requests import (
    StageRequest,
    compare_request,
    curate_request,
    encode_request,
    evaluate_request,
    register_request,
    train_request,
)
from softalign.stages.run import arms_of, evaluate_label, split_arms
from softalign.stages.what_changed import FieldChange, nearest_changes, published_requests
from softalign.store.files import open_filesystem
from softalign.store.store import RecordT, Store

SHOWN_CHANGES = 3
"""How many changes a row's text names; ``changes`` has them all."""


class PlannedStage(Frozen):
    """One stage of a plan.

    Attributes:
        state: ``done`` (published, will be reused), ``run`` (all inputs are there), ``wait`` (an earlier stage first),
            ``blocked`` (cannot run here; the reason says why).
        reason: why it is in that state.
        fix: of a blocked stage: what to do about it.
        predicted_bytes: what it will write, about; 0 where it is done, None where it cannot be known beforehand.
        changes: of a stage that runs or waits: what differs from the nearest published output of this stage, as far as
            it is known.
    """

    label: str
    state: Literal["done", "run", "wait", "blocked"]
    reason: str
    predicted_bytes: int | None
    uri: str = ""
    fix: str = ""
    changes: tuple[FieldChange, ...] = ()


def plan(recipe: Recipe, store: Store) -> tuple[PlannedStage, ...]:
    """Return what would run, in order; a stage that cannot run here is a row that says so.

    Raises:
        StorageUnavailableError: the store, or the place of a source, did not answer.
        ConfigError: the store refused access.
    """
    planner = _Planner(recipe, store)
    dataset = planner.add(
        "curate",
        DatasetManifest,
        "",
        lambda: curate_key(recipe),
        lambda: curate_request(recipe),
        lambda: curate_bytes(recipe),
    )
    encoded = planner.add(
        "encode",
        EncodedManifest,
        "curate",
        lambda: encode_key(recipe, dataset) if dataset else None,
        lambda: encode_request(recipe, dataset),
        lambda: encode_bytes(recipe, dataset),
    )
    adapter = planner.add(
        "train",
        Adapter,
        "encode",
        lambda: train_key(recipe, encoded) if encoded else None,
        lambda: train_request(recipe, encoded),
        lambda: train_bytes(recipe),
    )
    arms = arms_of(recipe)
    reports = [report for arm in arms if (report := _add_arm(planner, arm, adapter))]
    is_evaluated = len(reports) == len(arms)
    comparison = planner.add(
        "compare",
        ComparisonReport,
        "evaluate",
        lambda: compare_key(recipe, *split_arms(reports)) if is_evaluated else None,
        lambda: compare_request(recipe, tuple(reports)),
        lambda: None,
    )
    planner.add(
        "register",
        ModelVersion,
        "compare",
        lambda: register_key(recipe, adapter, comparison, store) if adapter and comparison else None,
        lambda: register_request(recipe, adapter, comparison, store),
        lambda: None,
    )
    return tuple(planner.rows)


def _add_arm(planner: _Planner, arm: Arm, adapter: Adapter | None) -> EvalReport | None:
    recipe, store = planner.recipe, planner.store
    is_base = arm in BASE_ARMS
    used = None if is_base else adapter
    return planner.add(
        evaluate_label(arm),
        EvalReport,
        "" if is_base else "train",
        lambda: evaluate_key(recipe, arm, used, store) if is_base or used else None,
        lambda: evaluate_request(recipe, arm, used, store),
        lambda: evaluate_bytes(recipe),
    )


def plan_text(rows: tuple[PlannedStage, ...]) -> str:
    """Return a plan for people: a line per stage, then what to do about those that cannot run here."""
    width = max(len(row.label) for row in rows)
    lines = [f"{row.label:<{width}}  {row.state:<7} {_megabytes(row.predicted_bytes)}  {row.reason}" for row in rows]
    fixes: dict[str, list[str]] = {}
    for row in rows:
        if row.fix:
            fixes.setdefault(row.fix, []).append(row.label)
    return "\n".join([*lines, *(f"to do ({', '.join(labels)}): {fix}" for fix, labels in fixes.items())])


def _megabytes(size: int | None) -> str:
    return "       ? MB" if size is None else f"{size / 1e6:8.2f} MB"


class _Planner:
    """Makes the rows, one stage after the other."""

    def __init__(self, recipe: Recipe, store: Store) -> None:
        self.recipe, self.store = recipe, store
        self.rows: list[PlannedStage] = []
        self._obstacles: dict[Stage, SoftAlignError | None] = {}
        self._is_download_said = False

    def add(
        self,
        label: str,
        kind: type[RecordT],
        needs: str,
        key: Callable[[], str | None],
        request: Callable[[], StageRequest],
        size: Callable[[], int | None],
    ) -> RecordT | None:
        """Add a stage's row and return its record, if it is published.

        Args:
            label: the row's name.
            kind: the stage's record.
            needs: the label, or its beginning, of the stages it takes its inputs from; empty: none.
            key: its stage key; None where an input is not known yet.
            request: what it is asked for, as far as it is known.
            size: bytes it will write.
        """
        error: SoftAlignError | None = None
        found_key, record = None, None
        try:
            found_key = key()
            record = self.store.find(kind, found_key) if found_key else None
        except SoftAlignError as problem:
            is_of_the_store = found_key is not None and isinstance(problem, ConfigError)
            if problem.is_retriable or is_of_the_store:
                raise
            error = problem
        uri = self.store.prefix(kind.stage, found_key) if found_key else ""
        if record is not None:
            row = PlannedStage(label=label, state="done", reason="published", predicted_bytes=0, uri=uri)
        elif (obstacle := self._obstacle(kind.stage) or error) is not None:
            row = _blocked(label, obstacle, uri)
        elif any(row.label.startswith(needs) and row.state == "blocked" for row in self.rows if needs):
            reason = f"cannot run here: it needs {needs}, which cannot"
            row = PlannedStage(label=label, state="blocked", reason=reason, predicted_bytes=None, uri=uri)
        else:
            row = self._open_row(label, kind, needs if found_key is None else "", request(), size, uri)
        self.rows.append(row)
        return record

    def _open_row(
        self,
        label: str,
        kind: type[Record],
        waits_for: str,
        request: StageRequest,
        size: Callable[[], int | None],
        uri: str,
    ) -> PlannedStage:
        """Return the row of a stage that runs or waits."""
        found = nearest_changes(request, kind, self.store)
        said = _changes_text(found or ())
        if waits_for:
            said = f"waits for {waits_for}" + (f"; {said}" if said else "")
        elif found is None:
            said = _unknown_changes(kind.stage, self.store)
        download = self._download(kind.stage)
        return PlannedStage(
            label=label,
            state="wait" if waits_for else "run",
            reason=f"{said or 'its key is made otherwise now'}{download}",
            predicted_bytes=size(),
            uri=uri,
            changes=found or (),
        )

    def _obstacle(self, stage: Stage) -> SoftAlignError | None:
        """Return what stands in a stage's way whatever its inputs are: in the recipe, or on this machine."""
        if stage not in self._obstacles:
            found = obstacle(stage, self.recipe, self.store)
            if found is None and stage in MODEL_STAGES:
                try:
                    check_machine(self.recipe)
                except SoftAlignError as error:
                    found = error
            self._obstacles[stage] = found
        return self._obstacles[stage]

    def _download(self, stage: Stage) -> str:
        """Return, once, which models the first stage that uses them downloads."""
        missing = uncached_models(self.recipe.backbone) if stage in MODEL_STAGES else ()
        if not missing or self._is_download_said:
            return ""
        self._is_download_said = True
        return f"; downloads {' and '.join(missing)} first: no folder here, and not cached"


def _blocked(label: str, error: SoftAlignError, uri: str) -> PlannedStage:
    found = ", ".join(text for text in (error.found, error.where) if text)
    reason = f"cannot run here: {error.what}" + (f" ({found})" if found else "")
    return PlannedStage(
        label=label, state="blocked", reason=" ".join(reason.split()), predicted_bytes=None, uri=uri, fix=error.fix
    )


def _changes_text(found: tuple[FieldChange, ...]) -> str:
    shown = [change.text for change in found[:SHOWN_CHANGES]]
    more = len(found) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])])


def _unknown_changes(stage: Stage, store: Store) -> str:
    """Return what can be said of a stage with no published request to compare with."""
    filesystem, path = open_filesystem(f"{store.uri}/{stage}")
    num_outputs = len(filesystem.ls(path, detail=False)) if filesystem.exists(path) else 0
    if num_outputs == 0:
        return "this store has no output of this stage"
    num_silent = num_outputs - sum(1 for _ in published_requests(stage, store))
    if num_silent <= 0:
        return f"the {num_outputs} published output(s) of this stage are of other recipes or arms"
    return (
        f"configuration, inputs or library version differ from the {num_silent} published output(s), "
        "which do not say what they were asked for"
    )
