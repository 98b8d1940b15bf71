"""How each stage does its work: one library call, in this process, or in a supervised child where a model is used."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from softalign.artifacts import Adapter, ComparisonReport, DatasetManifest, EncodedManifest, EvalReport, ModelVersion
from softalign.config.recipe import Recipe
from softalign.processes.launch import leads, rank_environments
from softalign.processes.supervise import OnLine, run_child
from softalign.stages.held_rounds import lent_report
from softalign.stages.jobs import WORKER, EncodeJob, EvaluateJob, Job, TrainJob, to_json
from softalign.stages.renewing import version_beside
from softalign.stages.requests import StageInputs, encoded_before, parent_request
from softalign.store.store import Store


def curate(given: StageInputs, key: str, _on_line: OnLine) -> DatasetManifest:
    """Curate the recipe's sources, and put the page of what came of it beside the record."""
    from softalign.data.curation.pipeline import curate
    from softalign.data.versions.reporting import keep_report

    parent = parent_request(given)
    parent_key = parent.key if parent is not None else ""
    recipe, beside = given.recipe, version_beside(given, key, parent_key)
    dataset = curate(recipe.curation, given.store, key, recipe.runtime, parent_key, beside)
    keep_report(dataset, given.store)
    return dataset


def encode(given: StageInputs, key: str, on_line: OnLine) -> EncodedManifest:
    """Encode the dataset for the recipe's backbone in a supervised child process."""
    dataset, before = given.inputs.get(DatasetManifest), encoded_before(given)
    job = EncodeJob(
        recipe=given.recipe, store=given.store.uri, key=key, held=given.store.held, dataset=dataset, before=before
    )
    return EncodedManifest.model_validate(_in_child(job, given, "encode", on_line))


def train(given: StageInputs, key: str, on_line: OnLine) -> Adapter:
    """Train the soft tokens in a supervised child process, one a GPU; rank 0's machine keeps the live run."""
    from softalign.registry import live_run

    encoded, is_watched = given.inputs.get(EncodedManifest), leads(given.recipe.runtime)
    job = TrainJob(recipe=given.recipe, store=given.store.uri, key=key, held=given.store.held, encoded=encoded)
    with live_run(given.recipe, encoded, given.store, key) if is_watched else nullcontext():
        return Adapter.model_validate(_in_child(job, given, "train", on_line))


def evaluate(given: StageInputs, key: str, on_line: OnLine) -> EvalReport:
    """Generate and score one arm in a supervised child process.

    Raises:
        ValueError: no arm is named.
    """
    arm, adapter, store = given.evaluated_arm, given.inputs.find(Adapter), given.store
    path = str(champion_folder(given.recipe, store)) if arm == "champion" else ""
    job = EvaluateJob(
        recipe=given.recipe,
        store=store.uri,
        key=key,
        held=store.held,
        arm=arm,
        adapter=adapter,
        champion_path=path,
        lent=lent_report(given),
    )
    return EvalReport.model_validate(_in_child(job, given, given.evaluation_label, on_line))


def compare(given: StageInputs, key: str, _on_line: OnLine) -> ComparisonReport:
    """Compare the arms and write the report."""
    from softalign.evaluation.compare import compare
    from softalign.stages.data_before import data_change

    reports, adapter, recipe = given.inputs.arm_reports, given.inputs.get(Adapter), given.recipe
    champion = recipe.evaluate.pinned_champion.partition("#")[0]
    change = data_change(adapter, champion, lambda: champion_folder(recipe, given.store), given.store)
    return compare(reports, adapter, recipe.evaluate, given.store, key, change)


def register(given: StageInputs, key: str, _on_line: OnLine) -> ModelVersion:
    """Register the adapter and decide its alias."""
    from softalign.registry import register

    adapter, comparison = given.inputs.get(Adapter), given.inputs.get(ComparisonReport)
    recipe, reports = given.recipe, given.inputs.arm_reports
    return register(adapter, comparison, reports, recipe.register_, recipe.runtime, given.store, key, recipe)


def champion_folder(recipe: Recipe, store: Store) -> Path:
    """Return a local folder with the files of a recipe's champion, verified by sha256.

    Raises:
        RegistryError: the version is not there any more.
        IntegrityError: its files are not those that were registered.
        StorageUnavailableError: the registry did not answer.
    """
    from softalign.registry import pull, tracking_uri

    reference = recipe.evaluate.pinned_champion.partition("#")[0]
    return pull(reference, tracking_uri=tracking_uri(recipe.runtime, store))


def _in_child(job: Job, given: StageInputs, label: str, on_line: OnLine) -> object:
    """Do a job in child processes, and return what they answer: the stage's record as JSON."""
    runtime = job.recipe.runtime
    return run_child(
        WORKER,
        to_json(job),
        label=label,
        stall_timeout_s=runtime.stall_timeout_s,
        on_line=on_line,
        environments=rank_environments(runtime) if job.stage == "train" else [{}],
        common=given.turn.environment,
        require=given.turn.require,
    )
