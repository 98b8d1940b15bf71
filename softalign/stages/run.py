"""The stages in order, for whoever composes them: what is already there is reused, what is missing runs.

A stage's key holds its configuration, its parents' digests and what its sources and base model are now, so the same
key means the same answer. ``plan`` says beforehand what would run and why.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from softalign.artifacts import (
    BASE_ARMS,
    Adapter,
    Arm,
    ComparisonReport,
    DatasetManifest,
    EncodedManifest,
    EvalReport,
    ModelVersion,
)
from softalign.config.recipe import Recipe
from softalign.errors import MissingInputError
from softalign.processes.launch import rank_environments
from softalign.processes.locking import exclusive
from softalign.processes.supervise import OnLine, run_child
from softalign.stages.jobs import WORKER, EvaluateJob, Job, TrainJob, to_json
from softalign.stages.keys import Reports, compare_key, curate_key, encode_key, evaluate_key, register_key, train_key
from softalign.stages.narration import figures, headline, place
from softalign.stages.requests import (
    StageRequest,
    asking,
    compare_request,
    curate_request,
    encode_request,
    evaluate_request,
    register_request,
    train_request,
)
from softalign.store.store import RecordT, Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageResult(Generic[RecordT]):
    """What one stage returned: its record, whether it was already there, and its counts and figures in a line."""

    label: str
    record: RecordT
    is_reused: bool
    seconds: float
    figures: str = ""
    place: str = ""

    @property
    def message(self) -> str:
        """One line for logs."""
        if self.is_reused:
            return f"{self.place or self.label}: already there, reused"
        return f"{self.label}: done in {self.seconds:.1f} s{'; ' if self.figures else ''}{self.figures}"


def _run(
    recipe: Recipe,
    label: str,
    kind: type[RecordT],
    key: str,
    store: Store,
    work: Callable[[], RecordT],
    request: Callable[[], StageRequest],
) -> StageResult[RecordT]:
    started, labels = time.monotonic(), stage_labels(recipe)
    record, shown = store.find(kind, key), ""
    is_reused = record is not None
    if record is None:
        logger.info("%s", headline(label, labels))
        with asking(request(), key, store):
            record = work()
        shown = figures(record, store)
    seconds = round(time.monotonic() - started, 3)
    return StageResult(label, record, is_reused, seconds, figures=shown, place=place(label, labels))


def _run_alone(
    recipe: Recipe,
    label: str,
    kind: type[RecordT],
    key: str,
    store: Store,
    work: Callable[[], RecordT],
    request: Callable[[], StageRequest],
) -> StageResult[RecordT]:
    """Run a stage in this process, one attempt at a time; who waited for another's finds what that one published."""
    if store.find(kind, key) is not None:
        return _run(recipe, label, kind, key, store, work, request)
    folder = store.work_path(kind.stage, key)
    with exclusive(folder):
        result = _run(recipe, label, kind, key, store, work, request)
        shutil.rmtree(folder, ignore_errors=True)
    return result


def stage_labels(recipe: Recipe) -> tuple[str, ...]:
    """Return what the stages of a recipe's whole chain are called in logs and plans, in order."""
    return ("curate", "encode", "train", *(evaluate_label(arm) for arm in arms_of(recipe)), "compare", "register")


def arms_of(recipe: Recipe) -> tuple[Arm, ...]:
    """Return the arms of a recipe's evaluation, in order; the base with guidance comes last, where it is asked for."""
    compared: tuple[Arm, ...] = ("base", "untrained", "adapter")
    return compared if recipe.evaluate.reference_guidance_scale is None else (*compared, "guided_base")


def split_arms(reports: Sequence[EvalReport]) -> tuple[Reports, EvalReport | None]:
    """Return the reports of ``arms_of`` as those that are compared, and the reference, if there is one."""
    base, untrained, candidate, *references = reports
    return (base, untrained, candidate), next(iter(references), None)


def run_curate(recipe: Recipe, store: Store) -> StageResult[DatasetManifest]:
    """Curate the recipe's sources, unless that is already done."""
    from softalign.data.curation.pipeline import curate

    key = curate_key(recipe)

    def work() -> DatasetManifest:
        return curate(recipe.curation, store, key)

    return _run_alone(recipe, "curate", DatasetManifest, key, store, work, lambda: curate_request(recipe))


def run_encode(recipe: Recipe, dataset: DatasetManifest, store: Store) -> StageResult[EncodedManifest]:
    """Encode a dataset for the recipe's backbone, unless that is already done."""
    key = encode_key(recipe, dataset)

    def work() -> EncodedManifest:
        logger.info("Loading PyTorch and the model")
        from softalign.data.encoding.encode import encode

        number = recipe.encode.hard_negatives_per_caption
        return encode(dataset, recipe.backbone, recipe.runtime, store, key, number)

    return _run_alone(recipe, "encode", EncodedManifest, key, store, work, lambda: encode_request(recipe, dataset))


def run_train(recipe: Recipe, encoded: EncodedManifest, store: Store, on_line: OnLine) -> StageResult[Adapter]:
    """Train the soft tokens in a supervised child process, unless that is already done."""
    key = train_key(recipe, encoded)

    def work() -> Adapter:
        job = TrainJob(recipe=recipe, store=store.uri, key=key, encoded=encoded)
        return Adapter.model_validate(_child(job, "train", on_line))

    return _run(recipe, "train", Adapter, key, store, work, lambda: train_request(recipe, encoded))


def run_evaluate(
    recipe: Recipe, arm: Arm, adapter: Adapter | None, store: Store, on_line: OnLine
) -> StageResult[EvalReport]:
    """Generate and score one arm in a supervised child process, unless that is already done."""
    used = None if arm in BASE_ARMS else adapter
    key = evaluate_key(recipe, arm, used, store)

    def work() -> EvalReport:
        job = EvaluateJob(recipe=recipe, store=store.uri, key=key, arm=arm, adapter=used)
        return EvalReport.model_validate(_child(job, evaluate_label(arm), on_line))

    def request() -> StageRequest:
        return evaluate_request(recipe, arm, used, store)

    return _run(recipe, evaluate_label(arm), EvalReport, key, store, work, request)


def evaluate_label(arm: Arm) -> str:
    """Return what an arm's evaluation is called in logs and plans."""
    return f"evaluate ({arm.replace('_', ' ')})"


def run_compare(
    recipe: Recipe, reports: Reports, guided_base: EvalReport | None, adapter: Adapter, store: Store
) -> StageResult[ComparisonReport]:
    """Compare the three arms and write the report, unless that is already done."""
    key = compare_key(recipe, reports, guided_base)
    arms = reports if guided_base is None else (*reports, guided_base)

    def work() -> ComparisonReport:
        from softalign.evaluation.compare import compare

        return compare(*reports, guided_base, adapter, recipe.evaluate, store, key)

    return _run_alone(recipe, "compare", ComparisonReport, key, store, work, lambda: compare_request(recipe, arms))


def run_register(
    recipe: Recipe,
    adapter: Adapter,
    comparison: ComparisonReport,
    reports: Reports,
    store: Store,
) -> StageResult[ModelVersion]:
    """Register the adapter and decide its alias, unless that is already done."""
    key = register_key(recipe, adapter, comparison, store)

    def work() -> ModelVersion:
        from softalign.registry import register

        return register(adapter, comparison, reports, recipe.register_, recipe.runtime, store, key)

    def request() -> StageRequest:
        return register_request(recipe, adapter, comparison, store)

    return _run_alone(recipe, "register", ModelVersion, key, store, work, request)


def _child(job: Job, label: str, on_line: OnLine) -> object:
    """Do a job in child processes, and return what they answer: the stage's record as JSON."""
    runtime = job.recipe.runtime
    return run_child(
        WORKER,
        to_json(job),
        label=label,
        stall_timeout_s=runtime.stall_timeout_s,
        on_line=on_line,
        environments=rank_environments(runtime) if job.stage == "train" else [{}],
    )


def require(kind: type[RecordT], key: str, store: Store) -> RecordT:
    """Return the published record of a stage that must exist already.

    Raises:
        MissingInputError: it does not; says how to make it.
    """
    record = store.find(kind, key)
    if record is None:
        command = "evaluate" if kind.stage == "compare" else kind.stage
        raise MissingInputError(
            f"The {kind.stage} stage of this recipe has not run in this store.",
            expected=f"{store.prefix(kind.stage, key)}/{kind.filename}",
            found="nothing",
            where=store.uri,
            fix=f"run `softalign {command} RECIPE` first, with the same --set and --store, or repeat with --through",
        )
    return record
