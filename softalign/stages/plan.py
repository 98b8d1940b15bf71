"""What a recipe would run in a store, and why: nothing is computed, and nothing is left behind."""

from __future__ import annotations

from typing import Literal

from softalign.artifacts import ComparisonReport, EvalReport, Frozen, Stage
from softalign.config.recipe import Recipe
from softalign.errors import ConfigError, SoftAlignError
from softalign.evaluation.differences import planned_for
from softalign.stages.asked_before import published_requests
from softalign.stages.champion import with_champion
from softalign.stages.checks import check_machine, uncached_models, undetected
from softalign.stages.planned_rounds import rounds_text
from softalign.stages.predicted_drawing import predicted_drawing
from softalign.stages.preflight import obstacle
from softalign.stages.requests import StageRequest
from softalign.stages.rounds import StepsAsDecided
from softalign.stages.table import StageRow, Step, steps_of
from softalign.stages.what_changed import FieldChange, nearest_changes
from softalign.stages.world import OpenStep, obstacles
from softalign.store.files import open_filesystem
from softalign.store.store import Store

SHOWN_CHANGES = 3
"""How many changes a row's text names; ``changes`` has them all."""
_BLOCKED = "cannot run here: "


class PlannedStage(Frozen):
    """One stage of a plan.

    Attributes:
        state: ``done`` (published, will be reused), ``run`` (all inputs are there), ``wait`` (an earlier stage first),
            ``blocked`` (cannot run here; the reason says why).
        reason: why it is in that state.
        predicted_images: of an arm that is not there: how many it draws; in rounds: until the gate looks next.
        predicted_minutes: how long that takes, about; None where nothing tells.
        fix: of a blocked stage: what to do about it.
        predicted_bytes: what it will write, about; 0 where it is done, None where it cannot be known beforehand.
        size_note: how far that number is known, where there is something to say of it.
        changes: of a stage that runs or waits: what differs from the nearest published output of this stage, as far as
            it is known.
    """

    label: str
    state: Literal["done", "run", "wait", "blocked"]
    reason: str
    predicted_bytes: int | None
    size_note: str = ""
    predicted_images: int | None = None
    predicted_minutes: float | None = None
    uri: str = ""
    fix: str = ""
    changes: tuple[FieldChange, ...] = ()


def plan(recipe: Recipe, store: Store) -> tuple[PlannedStage, ...]:
    """Return what would run, in order; a stage that cannot run here is a row that says so.

    Raises:
        StorageUnavailableError: the store, or the place of a source, did not answer.
        ConfigError: the store refused access.
    """
    recipe = with_champion(recipe, store, ("evaluate", "register"))
    rows = plan_recipe(recipe, store)
    refused = obstacles(open_steps(rows, recipe), recipe, store)
    return tuple(_blocked(row.label, refused[row.label], row.uri) if row.label in refused else row for row in rows)


def plan_recipe(recipe: Recipe, store: Store) -> tuple[PlannedStage, ...]:
    """Return what would run as far as recipe and store alone say: the world is not asked."""
    planner = _Planner(recipe, store)
    for step in planner.steps:
        planner.add(step)
    return tuple(planner.rows)


def open_steps(rows: tuple[PlannedStage, ...], recipe: Recipe) -> tuple[OpenStep, ...]:
    """Return the steps of a plan that would run, now or later; an arm that nothing can score yet is drawn."""
    steps = {step.label: step for step in steps_of(recipe)}
    still_open = [row for row in rows if row.state in {"run", "wait"} or row.predicted_images]
    return tuple(OpenStep(steps[row.label], row.predicted_bytes) for row in still_open)


def plan_text(rows: tuple[PlannedStage, ...]) -> str:
    """Return a plan for people: a line per stage, then what to do about those that cannot run here."""
    width = max(len(row.label) for row in rows)
    lines = [
        f"{row.label:<{width}}  {row.state:<7} {_megabytes(row.predicted_bytes)}  {row.reason}"
        + (f" (size: {row.size_note})" if row.size_note else "")
        for row in rows
    ]
    fixes: dict[str, list[str]] = {}
    for row in rows:
        if row.fix:
            fixes.setdefault(row.fix, []).append(row.label)
    return "\n".join([*lines, *(f"to do ({', '.join(labels)}): {fix}" for fix, labels in fixes.items())])


def _megabytes(size: int | None) -> str:
    return "       ? MB" if size is None else f"{size / 1e6:8.2f} MB"


class _Planner:
    """Makes the rows, one step after the other."""

    def __init__(self, recipe: Recipe, store: Store) -> None:
        self.recipe, self.store = recipe, store
        self.rows: list[PlannedStage] = []
        self.steps = StepsAsDecided(recipe, store)
        self._obstacles: dict[Stage, SoftAlignError | None] = {}
        self._is_download_said = False
        self._undetected = undetected(recipe)

    def add(self, step: Step) -> None:
        """Add a step's row, and remember its record if it is published."""
        self.rows.append(self._row(step))

    def _row(self, step: Step) -> PlannedStage:
        is_ready = step.is_ready(self.steps.published)
        request, record, uri = None, None, ""
        try:
            request = step.request(self.steps.published, self.store)
            if is_ready:
                uri = self.store.prefix(step.row.name, request.key)
                record = step.row.published(request.key, self.store)
        except SoftAlignError as error:
            is_of_the_store = request is not None and isinstance(error, ConfigError)
            if error.is_retriable or is_of_the_store:
                raise
            return _blocked(step.label, self._obstacle(step.row) or error, uri)
        if record is not None:
            self.steps.note(step, record)
            uri = self.store.prefix(step.row.name, record.stage_key)
            return PlannedStage(label=step.label, state="done", reason="published", predicted_bytes=0, uri=uri)
        if (in_the_way := self._obstacle(step.row)) is not None:
            return _blocked(step.label, in_the_way, uri)
        if any(row.state == "blocked" for row in self.rows if row.label in step.parents):
            reason = f"cannot run here: it needs {step.row.parents[-1]}, which cannot"
            return PlannedStage(label=step.label, state="blocked", reason=reason, predicted_bytes=None, uri=uri)
        row = self._open_row(step, request, uri, is_waiting=not is_ready)
        return self._drawing(row, step) if step.row.record is EvalReport else row

    def _open_row(self, step: Step, request: StageRequest, uri: str, *, is_waiting: bool) -> PlannedStage:
        """Return the row of a stage that runs or waits."""
        found = nearest_changes(request, step.row.record, self.store)
        said = _changes_text(found or ())
        if is_waiting:
            said = f"waits for {step.row.parents[-1]}" + (f"; {said}" if said else "")
        elif not found and self.store.find(step.row.record, request.key) is not None:
            said = "the registry does not have any more what was registered"
        elif found is None:
            said = _unknown_changes(step.row.name, self.store)
        more = f"{self._download(step.row)}{self._tells(step.row)}{self._rounds(step)}"
        size = step.row.size(self.recipe, self.steps.published)
        return PlannedStage(
            label=step.label,
            state="wait" if is_waiting else "run",
            reason=f"{said or 'its key is made otherwise now'}{more}",
            predicted_bytes=size,
            size_note=step.row.size_note(self.recipe, self.steps.published, size),
            uri=uri,
            changes=found or (),
        )

    def _drawing(self, row: PlannedStage, step: Step) -> PlannedStage:
        """Return an arm's row with what it draws; without a detector it is blocked once that is drawn."""
        given = step.inputs(self.steps.published, self.store)
        drawing = predicted_drawing(self.recipe, given.recipe.evaluate.of_arm(given.evaluated_arm), self.store)
        minutes = None if drawing.minutes is None else round(drawing.minutes, 3)
        numbers = {"predicted_images": drawing.num_images, "predicted_minutes": minutes}
        said = "" if self.recipe.evaluate.is_undecided else f"; {drawing.text}"
        if self._undetected is None:
            return row.model_copy(update={**numbers, "reason": row.reason + said})
        blocked = _blocked(row.label, self._undetected, row.uri)
        reason = f"draws {drawing.text}, then stops: {blocked.reason.removeprefix(_BLOCKED)}"
        return blocked.model_copy(update={**numbers, "reason": reason, "predicted_bytes": row.predicted_bytes})

    def _obstacle(self, row: StageRow) -> SoftAlignError | None:
        """Return what stands in a stage's way whatever its inputs are: in the recipe, or on this machine."""
        if row.name not in self._obstacles:
            found = obstacle(row, self.recipe, self.store)
            if found is None and row.uses_model:
                try:
                    check_machine(self.recipe)
                except SoftAlignError as error:
                    found = error
            self._obstacles[row.name] = found
        return self._obstacles[row.name]

    def _tells(self, row: StageRow) -> str:
        """Return which differences a comparison will tell, before anything is drawn."""
        if row.record is not ComparisonReport:
            return ""
        found = planned_for(self.recipe.evaluate) * 100
        return f"; can be told overall in four cases of five: {found:.1f} points (variance as in the embedded world)"

    def _rounds(self, step: Step) -> str:
        """Return how much an arm draws at least and at most, where that is not decided."""
        if step.row.record is not EvalReport or not self.recipe.evaluate.is_undecided:
            return ""
        given, is_ready = step.inputs(self.steps.published, self.store), step.is_ready(self.steps.published)
        return f"; {rounds_text(given, is_ready=is_ready)}"

    def _download(self, row: StageRow) -> str:
        """Return, once, which models the first stage that uses them downloads."""
        missing = uncached_models(self.recipe.backbone) if row.uses_model else ()
        if not missing or self._is_download_said:
            return ""
        self._is_download_said = True
        return f"; downloads {' and '.join(missing)} first: no folder here, and not cached"


def _blocked(label: str, error: SoftAlignError, uri: str) -> PlannedStage:
    found = ", ".join(text for text in (error.found, error.where) if text)
    reason = f"{_BLOCKED}{error.what}" + (f" ({found})" if found else "")
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
        return f"what this store has of this stage ({num_outputs}) is of other recipes or arms"
    return (
        f"configuration, inputs or library version differ from what is published ({num_silent}), "
        "which does not say what it was asked for"
    )
