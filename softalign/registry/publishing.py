"""Registering an adapter: one run, one version, one decision, each found again after a crash by the stage key.

Order: run (parameters, curves, scores, files), version (its tags in the same request), decision and alias, mark
``decided``. A crash between two of them is continued by the next call. A decided version is never decided again:
registering it once more after a rollback must not bring it back.

One version a stage key: whoever registers holds the key's lease, where the store has one, and looks for it again before
each of these steps. Two that do not know of each other (two stores, one registry) may both make a version: the lowest
number is the one, for everybody, and who made another removes it.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softalign.artifacts import (
    Adapter,
    ArmReports,
    ComparisonReport,
    FileEntry,
    ModelVersion,
    Record,
    Usage,
    canonical_json,
)
from softalign.config.recipe import Recipe
from softalign.config.registration import RegisterConfig
from softalign.config.runtime import Runtime
from softalign.errors import CompatibilityError, IntegrityError
from softalign.registry.connection import public_uri, registry_client, tracking_uri
from softalign.registry.deciding import decide_once
from softalign.registry.experiments import experiment_of
from softalign.registry.gate import Decision
from softalign.registry.links import ORCHESTRATOR_TAG
from softalign.registry.model_folder import build_model_folder
from softalign.registry.presence import is_in_registry, withdraw
from softalign.registry.restoring import restore_files
from softalign.registry.runs import ensure_run
from softalign.registry.versions import (
    BASE_MODEL_TAG,
    COMPARISON_TAG,
    FILES_TAG,
    STAGE_KEY_TAG,
    WEIGHTS_TAG,
    known,
    versions_of,
)
from softalign.run_context import orchestrator_run_url
from softalign.store.store import Store
from softalign.store.usage import kept_usage
from softalign.version import __version__

logger = logging.getLogger(__name__)

DECISION_FILENAME = "decision.json"


@dataclass(frozen=True)
class Registration:
    """What is registered, by which rules, and for which stage key; ``recipe`` is for people, where it is known."""

    adapter: Adapter
    comparison: ComparisonReport
    reports: ArmReports
    config: RegisterConfig
    store: Store
    key: str
    recipe: Recipe | None = None


def register(
    adapter: Adapter,
    comparison: ComparisonReport,
    reports: ArmReports,
    config: RegisterConfig,
    runtime: Runtime,
    store: Store,
    key: str,
    recipe: Recipe | None = None,
) -> ModelVersion:
    """Register an adapter, decide its alias, and return the published record.

    The same key again finds the version it made and changes nothing.

    Args:
        adapter: the trained adapter.
        comparison: its paired comparison with base and untrained tokens.
        reports: the arms' scores, of which the comparison was made.
        config: name, experiment and promotion policy.
        runtime: holds the tracking URI, if one is set.
        store: where the adapter and the report lie, and where the record goes.
        key: the stage key.
        recipe: what all of it was made by, kept with the run; None: not known.

    Raises:
        ConfigError: a remote store without a tracking URI, or mlflow is not installed.
        StorageUnavailableError, RegistryError: the registry did not answer, or refused; finished steps are kept.
        IntegrityError, CompatibilityError: the adapter's files are not what was published; reports of other ones.
        LeaseLostError: another process registers it by now.
    """
    _check_belonging(adapter, comparison, reports)
    request = Registration(adapter, comparison, reports, config, store, key, recipe)
    uri, work = tracking_uri(runtime, store), store.work_path("register", key)
    model_path, own, compared = work / "model", store.fetch(adapter), store.fetch(comparison)
    files = build_model_folder(own, store.files(adapter), model_path, adapter, comparison, reports, compared)
    with registry_client(uri) as client:
        version = _version_of(client, request, uri, model_path, files)
        store.require_held()
        decision = decide_once(client, config.name, version, comparison, config.policy, store)
    return _publish(_record(request, version, decision, uri), decision, store, work)


def _version_of(client: Any, request: Registration, uri: str, model_path: Path, files: tuple[FileEntry, ...]) -> Any:
    found = _registered(client, request.config.name, request.key)
    if found is not None:
        restore_files(client, found, model_path, files)
        return found
    return _only_version(client, _new_version(client, request, uri, model_path, files), request.key)


def _check_belonging(adapter: Adapter, comparison: ComparisonReport, reports: ArmReports) -> None:
    named = {f"report of {report.arm}": report for report in reports.all} | {"adapter": adapter}
    strangers = [name for name, record in named.items() if record.digest not in comparison.parents]
    if strangers:
        raise CompatibilityError(
            "The comparison was not made of what is registered with it.",
            expected=f"the digest of each among its parents: {', '.join(named)}",
            found=f"without {', '.join(strangers)}",
            where=comparison.uri,
            fix="compare these reports (`softalign evaluate RECIPE`), and register that comparison",
        )


def _new_version(client: Any, request: Registration, uri: str, model_path: Path, files: tuple[FileEntry, ...]) -> Any:
    adapter, comparison, config, store = request.adapter, request.comparison, request.config, request.store
    run_id = ensure_run(
        client,
        key=request.key,
        experiment_id=experiment_of(client, config.experiment, uri, store),
        adapter=adapter,
        adapter_path=store.fetch(adapter),
        model_path=model_path,
        comparison=comparison,
        report_path=store.fetch(comparison),
        reports=request.reports,
        config=config,
        usages=_usages(request),
        recipe=request.recipe,
    )
    store.require_held()
    return _create_version(client, config.name, run_id, _version_tags(adapter, comparison, files, request.key))


def _usages(request: Registration) -> dict[str, Usage]:
    """Return what the stages cost whose records are registered, by name, as far as that is kept."""
    named: dict[str, Record] = {"train": request.adapter, "compare": request.comparison}
    named |= {f"evaluate_{report.arm}": report for report in request.reports.all}
    found = {name: kept_usage(request.store, record) for name, record in named.items()}
    return {name: usage for name, usage in found.items() if usage is not None}


def _record(request: Registration, version: Any, decision: Decision, uri: str) -> ModelVersion:
    adapter = request.adapter
    return ModelVersion(
        stage_key=request.key,
        parents=(adapter.digest, request.comparison.digest, *(report.digest for report in request.reports.compared)),
        name=request.config.name,
        version=int(version.version),
        alias=decision.alias,
        is_promoted=decision.is_promoted,
        reason=decision.reason,
        run_id=version.run_id,
        tracking_uri=public_uri(uri, request.store),
        weights_sha256=adapter.weights_sha256,
    )


def registered_decision(version: ModelVersion, store: Store) -> Decision:
    """Return what the gate decided about a registered version, from its published files."""
    folder = store.fetch(version, under=DECISION_FILENAME)
    stored = json.loads((folder / DECISION_FILENAME).read_bytes())
    return known(Decision, stored, f"{version.uri}/{DECISION_FILENAME}")


def _replaced(stale: ModelVersion, record: ModelVersion, folder: Path, store: Store) -> ModelVersion:
    """Publish a version in place of one whose registry is gone."""
    logger.warning("%s/%d is in no registry any more; it is registered anew", stale.name, stale.version)
    withdraw(stale, store)
    return store.publish(record, folder)


def _publish(record: ModelVersion, decision: Decision, store: Store, work: Path) -> ModelVersion:
    folder = work / "record"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / DECISION_FILENAME).write_text(json.dumps(decision.model_dump(), indent=1) + "\n", encoding="utf-8")
    try:
        published = store.publish(record, folder)
    except IntegrityError:  # of two that knew nothing of each other, the other one was sooner
        winner = store.find(ModelVersion, record.stage_key)
        if winner is None:
            raise
        published = winner if is_in_registry(winner, store) else _replaced(winner, record, folder, store)
    shutil.rmtree(work, ignore_errors=True)
    return published


def _registered(client: Any, name: str, key: str) -> Any:
    found = versions_of(client, name, key)
    return found[0] if found else None


def _only_version(client: Any, made: Any, key: str) -> Any:
    """Return the version of a stage key once one was made: of several the first, and the one just made is removed."""
    first = _registered(client, made.name, key)
    if first is None or int(first.version) == int(made.version):
        return made
    if not client.get_model_version(made.name, str(made.version)).aliases:
        client.delete_model_version(made.name, str(made.version))
    logger.warning(
        "%s/%s is removed again: the same is registered as version %s", made.name, made.version, first.version
    )
    return first


def _version_tags(
    adapter: Adapter, comparison: ComparisonReport, files: tuple[FileEntry, ...], key: str
) -> dict[str, str]:
    url = orchestrator_run_url()
    return {
        **({ORCHESTRATOR_TAG: url} if url else {}),
        STAGE_KEY_TAG: key,
        FILES_TAG: canonical_json([entry.model_dump() for entry in files]).decode(),
        COMPARISON_TAG: comparison.model_dump_json(exclude={"uri"}),
        "softalign.adapter_digest": adapter.digest,
        "softalign.backbone_digest": adapter.backbone_digest,
        BASE_MODEL_TAG: adapter.base_model,
        "softalign.comparison_digest": comparison.digest,
        "softalign.dataset_digest": adapter.dataset_digest,
        "softalign.library_version": __version__,
        WEIGHTS_TAG: adapter.weights_sha256,
    }


def _create_version(client: Any, name: str, run_id: str, tags: dict[str, str]) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Soft tokens for text alignment, registered by softalign.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    return client.create_model_version(name, source, run_id=run_id, tags=tags)
