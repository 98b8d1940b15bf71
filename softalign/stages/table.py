"""The one table of stages: a row says what a stage publishes, needs, is asked for, and how it is done.

Whoever runs, plans, requires, resumes or orchestrates stages walks this table, so a new stage is a new row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from softalign.artifacts import (
    BASE_ARMS,
    Adapter,
    Arm,
    ComparisonReport,
    DatasetManifest,
    EncodedManifest,
    EvalReport,
    ModelVersion,
    Record,
    Stage,
)
from softalign.config.recipe import Recipe
from softalign.processes.supervise import OnLine
from softalign.stages import checks, newer, planned_bytes, renewing, requests, so_far, work
from softalign.stages.published import Published, label_of
from softalign.stages.requests import StageInputs, StageRequest
from softalign.store.store import Store


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage.

    Attributes:
        name: the stage.
        does: what it does, for the line that it begins with.
        record: the kind of record that it publishes.
        parents: the stages whose records it takes, the one it waits for last.
        request: what a recipe asks of it; its digest is the stage key.
        work: does it and publishes; takes the stage's inputs, its key, and where lines for people go.
        check: raises what stands in its way whatever its inputs are.
        size: about how many bytes it will write, with what is published so far; None: it cannot be known.
        size_note: what is to be said of that size.
        so_far: what an unfinished attempt has kept, for its inputs and key; empty: nothing.
        command: the stage whose command runs it; empty: its own.
        is_kept: whether what a record names outside of the store is there as well.
        newest: the version of a published record that counts.
        stand_in: what later stages take where that is not published: what was made without damaged parts.
        renewal: what is asked for in place of a published record, if something of it can be mended by now.
        renewed: hears of what that came to.
        uses_model: it loads the base model, in a child process, and may need a GPU.
    """

    name: Stage
    does: str
    record: type[Record]
    parents: tuple[Stage, ...]
    request: Callable[[StageInputs], StageRequest]
    work: Callable[[StageInputs, str, OnLine], Record]
    check: Callable[[Recipe, Store], None] = checks.nothing
    size: Callable[[Recipe, Published], int | None] = planned_bytes.unknown_bytes
    size_note: Callable[[Recipe, Published, int | None], str] = planned_bytes.no_note
    so_far: Callable[[StageInputs, str], str] = so_far.nothing
    command: Stage | None = None
    is_kept: Callable[[Record, Store], bool] = checks.is_kept
    newest: Callable[[Record, Store], Record] = checks.as_it_is
    renewal: Callable[[StageInputs, Record], StageRequest | None] = checks.nothing_of
    renewed: Callable[[StageInputs, Record], None] = checks.nothing_of
    stand_in: Callable[[Published, str, Store], Record | None] = checks.no_stand_in
    uses_model: bool = False

    def published(self, key: str, store: Store) -> Record | None:
        """Return what is published under a stage key; None where nothing is, or what it names is gone.

        Raises:
            IntegrityError: a damaged record, or one of another request.
            StorageUnavailableError: the store did not answer.
        """
        record = store.find(self.record, key)
        return self.newest(record, store) if record is not None and self.is_kept(record, store) else None

    @property
    def asked_by(self) -> Stage:
        """The stage whose command runs this one."""
        return self.command or self.name


STAGES: tuple[StageRow, ...] = (
    StageRow(
        name="curate",
        does="reading, checking and filtering images and captions",
        record=DatasetManifest,
        parents=(),
        request=requests.curate_request,
        work=work.curate,
        check=checks.check_sources,
        size=planned_bytes.curate_bytes,
        newest=newer.newest,
        renewal=renewing.renewal,
        renewed=renewing.note_newer,
    ),
    StageRow(
        name="encode",
        does="images and captions through the frozen model's encoders",
        record=EncodedManifest,
        parents=("curate",),
        request=requests.encode_request,
        work=work.encode,
        check=checks.check_model,
        size=planned_bytes.encode_bytes,
        size_note=planned_bytes.encode_note,
        stand_in=checks.encoded_with_losses,
        uses_model=True,
    ),
    StageRow(
        name="train",
        does="soft tokens; the model stays frozen",
        record=Adapter,
        parents=("encode",),
        request=requests.train_request,
        work=work.train,
        check=checks.check_training,
        size=planned_bytes.train_bytes,
        so_far=so_far.training_steps,
        uses_model=True,
    ),
    StageRow(
        name="evaluate",
        does="images of all prompts, and their score",
        record=EvalReport,
        parents=("train",),
        request=requests.evaluate_request,
        work=work.evaluate,
        check=checks.check_evaluation,
        size=planned_bytes.evaluate_bytes,
        so_far=so_far.images,
        uses_model=True,
    ),
    StageRow(
        name="compare",
        does="the arms in pairs, and the report",
        record=ComparisonReport,
        parents=("train", "evaluate"),
        request=requests.compare_request,
        work=work.compare,
        command="evaluate",
    ),
    StageRow(
        name="register",
        does="into MLflow (the first time its database is made)",
        record=ModelVersion,
        parents=("train", "evaluate", "compare"),
        request=requests.register_request,
        work=work.register,
        check=checks.check_registry,
        is_kept=checks.is_in_registry,
    ),
)
COMMANDS: tuple[Stage, ...] = tuple(row.name for row in STAGES if row.command is None)
"""The stages that a command of their own runs, in order."""


def row_of(stage: Stage) -> StageRow:
    """Return a stage's row."""
    return next(row for row in STAGES if row.name == stage)


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a stage in a recipe's chain; ``evaluate`` has one for each arm."""

    row: StageRow
    recipe: Recipe
    arm: Arm | None = None
    guidance_scale: float | None = None

    @property
    def label(self) -> str:
        """What it is called in logs and plans."""
        return label_of(self.row.name, self.arm, self.guidance_scale)

    @property
    def parents(self) -> tuple[str, ...]:
        """The labels of the steps whose records it takes; the arms of base and champion take none."""
        if self.arm in (*BASE_ARMS, "champion"):
            return ()
        return tuple(label for stage in self.row.parents for label in _labels(row_of(stage), self.recipe))

    def inputs(self, published: Published, store: Store) -> StageInputs:
        """Return what it starts from, of what is published."""
        recipe = self.recipe
        if self.guidance_scale is not None:
            at_guidance = recipe.evaluate.at_guidance(self.guidance_scale)
            recipe = recipe.model_copy(update={"evaluate": at_guidance})
        return StageInputs(recipe, store, published.only(self.parents), self.arm, self.guidance_scale)

    def request(self, published: Published, store: Store) -> StageRequest:
        """Return what it is asked for, with what is published so far."""
        return self.row.request(self.inputs(published, store))

    def is_ready(self, published: Published) -> bool:
        """Return whether all that it takes is published."""
        return all(label in published.labels for label in self.parents)


def steps_of(recipe: Recipe) -> tuple[Step, ...]:
    """Return the steps of a recipe's chain, in order."""
    return tuple(Step(row, recipe, arm, guidance) for row in STAGES for arm, guidance in _arms(row, recipe))


def _arms(row: StageRow, recipe: Recipe) -> tuple[tuple[Arm | None, float | None], ...]:
    """Return a stage's arms, those of a sweep with their guidance."""
    if row.record is not EvalReport:
        return ((None, None),)
    return (*((arm, None) for arm in recipe.evaluate.arms), *recipe.evaluate.swept_arms)


def _labels(row: StageRow, recipe: Recipe) -> tuple[str, ...]:
    return tuple(label_of(row.name, arm, guidance) for arm, guidance in _arms(row, recipe))
