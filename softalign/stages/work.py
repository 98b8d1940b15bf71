"""How each stage does its work: one library call, in this process, or in a supervised child (training, evaluation)."""

from __future__ import annotations

import logging

from softalign.artifacts import Adapter, ComparisonReport, DatasetManifest, EncodedManifest, EvalReport, ModelVersion
from softalign.processes.launch import rank_environments
from softalign.processes.supervise import OnLine, run_child
from softalign.stages.requests import StageInputs
from softalign.store.store import RecordT

logger = logging.getLogger(__name__)


def curate(given: StageInputs, key: str, _on_line: OnLine) -> DatasetManifest:
    """Curate the recipe's sources."""
    from softalign.data.curation.pipeline import curate

    return curate(given.recipe.curation, given.store, key)


def encode(given: StageInputs, key: str, _on_line: OnLine) -> EncodedManifest:
    """Encode the dataset for the recipe's backbone."""
    logger.info("Loading PyTorch and the model")
    from softalign.data.encoding.encode import encode

    recipe, number = given.recipe, given.recipe.train.negatives.num_hard
    return encode(given.inputs.get(DatasetManifest), recipe.backbone, recipe.runtime, given.store, key, number)


def train(given: StageInputs, key: str, on_line: OnLine) -> Adapter:
    """Train the soft tokens in a supervised child process, one a GPU."""
    return _in_child(Adapter, given, key, on_line, rank_environments(given.recipe.runtime))


def evaluate(given: StageInputs, key: str, on_line: OnLine) -> EvalReport:
    """Generate and score one arm in a supervised child process."""
    return _in_child(EvalReport, given, key, on_line, [{}])


def compare(given: StageInputs, key: str, _on_line: OnLine) -> ComparisonReport:
    """Compare the arms and write the report."""
    from softalign.evaluation.compare import compare

    reports, adapter = given.inputs.arm_reports, given.inputs.get(Adapter)
    return compare(reports, adapter, given.recipe.evaluate, given.store, key)


def register(given: StageInputs, key: str, _on_line: OnLine) -> ModelVersion:
    """Register the adapter and decide its alias."""
    from softalign.registry import register

    adapter, comparison = given.inputs.get(Adapter), given.inputs.get(ComparisonReport)
    recipe, reports = given.recipe, given.inputs.arm_reports
    return register(adapter, comparison, reports, recipe.register_, recipe.runtime, given.store, key)


def _in_child(
    kind: type[RecordT], given: StageInputs, key: str, on_line: OnLine, environments: list[dict[str, str]]
) -> RecordT:
    record = given.inputs.records[-1] if given.inputs.records else None
    request = {
        "stage": kind.stage,
        "key": key,
        "arm": given.arm,
        "store": given.store.uri,
        "recipe": given.recipe.model_dump(mode="json", by_alias=True),
        "record": record.model_dump(mode="json") if record else None,
    }
    answer = run_child(
        request,
        given.store.work_path(kind.stage, "children"),
        stall_timeout_s=given.recipe.runtime.stall_timeout_s,
        on_line=on_line,
        environments=environments,
    )
    return kind.model_validate(answer["record"])
