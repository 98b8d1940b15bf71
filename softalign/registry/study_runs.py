"""The runs of a study: a parent with its page, and a child for each cell with what was varied and what it scored.

Best effort, as everything that is logged beside the work: a registry that is away costs one warning. Found again by
their digests, so that a study that is repeated has one run, and each cell one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softalign.config.recipe import Recipe
from softalign.credentials import without_secrets
from softalign.errors import SoftAlignError
from softalign.registry.connection import public_uri, registry_client, tracking_uri
from softalign.registry.experiments import NOTE_TAG, experiment_of
from softalign.registry.links import page_of_run
from softalign.registry.run_facts import user_name
from softalign.registry.training_runs import PARENT_TAG, TRAIN_KEY_TAG, runs_of
from softalign.store.store import Store
from softalign.version import __version__

logger = logging.getLogger(__name__)
STUDY_TAG = "softalign.study_digest"
"""Of a study's own run: the digest of its file."""
CELL_TAG = "softalign.study_cell"
"""Of a cell's run: the digests of study and adapter."""
STUDIED_KEY_TAG = "softalign.studied_train_key"
"""The stage key of a cell's training, whose own run has the curves."""


@dataclass(frozen=True)
class CellFacts:
    """One cell: what was varied, what it scored, and the digest and stage key of its training."""

    name: str
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    adapter_digest: str
    train_key: str


@dataclass(frozen=True)
class StudyFacts:
    """A whole study.

    Attributes:
        name: of the study.
        digest: of its file.
        about: what it is for.
        metrics: what its hypotheses came to.
        files: result and page.
        cells: each becomes a child.
    """

    name: str
    digest: str
    about: str
    metrics: Mapping[str, float]
    files: Sequence[Path]
    cells: Sequence[CellFacts] = field(default_factory=tuple)


def log_study(facts: StudyFacts, recipe: Recipe, store: Store) -> str:
    """Keep a study's runs and return the parent's id; empty where the registry did not take them.

    Args:
        facts: of the study.
        recipe: of one of its cells: whose registry and experiment are meant.
        store: whose own registry is meant where no other is named.
    """
    try:
        uri = tracking_uri(recipe.runtime, store)
        with registry_client(uri) as client:
            run_id = _log(client, facts, experiment_of(client, recipe.register_.experiment, uri, store))
    except SoftAlignError as error:
        _warn(error.what)
        return ""
    except Exception as error:  # whatever a registry or its client raises: the result is written
        _warn(without_secrets(repr(error)[:300]))
        return ""
    if page := page_of_run(public_uri(uri, store), run_id):
        logger.info("This study can be seen at %s", page)
    return run_id


def _warn(why: str) -> None:
    logger.warning("The study has no MLflow runs; its result is written all the same: %s", why)


def _log(client: Any, facts: StudyFacts, experiment_id: str) -> str:
    tags = {STUDY_TAG: facts.digest, NOTE_TAG: facts.about, "softalign.kind": "study", "mlflow.user": user_name()}
    parameters = {"kind": "study", "study": facts.name, "num_cells": str(len(facts.cells))}
    run_id = _run(client, experiment_id, STUDY_TAG, f"study {facts.name}", tags, parameters, facts.metrics)
    for path in facts.files:
        client.log_artifact(run_id, str(path))
    for cell in facts.cells:
        tags = {
            CELL_TAG: f"{facts.digest[:16]}/{cell.name}/{cell.adapter_digest[:16]}",
            PARENT_TAG: run_id,
            STUDIED_KEY_TAG: cell.train_key,
            "softalign.kind": "study cell",
            "softalign.adapter_digest": cell.adapter_digest,
        }
        tags |= _training_of(client, experiment_id, cell.train_key)
        _run(client, experiment_id, CELL_TAG, cell.name, tags, cell.parameters, cell.metrics)
    return run_id


def _training_of(client: Any, experiment_id: str, train_key: str) -> dict[str, str]:
    found = runs_of(client, experiment_id, TRAIN_KEY_TAG, train_key)
    return {"softalign.training_run": found[0].info.run_id} if found else {}


def _run(
    client: Any,
    experiment_id: str,
    by_tag: str,
    name: str,
    tags: Mapping[str, str],
    parameters: Mapping[str, str],
    metrics: Mapping[str, float],
) -> str:
    """Find the run with a tag, or make it; write what it is, and end it."""
    from mlflow.entities import Metric, Param, RunTag

    found = runs_of(client, experiment_id, by_tag, tags[by_tag])
    run = found[0] if found else client.create_run(experiment_id, run_name=name, tags=dict(tags))
    run_id: str = run.info.run_id
    told = {**tags, "softalign.library_version": __version__, "mlflow.source.name": "softalign"}
    if found and set(run.data.metrics.items()) == set(metrics.items()) and run.info.status == "FINISHED":
        return run_id
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, run.info.start_time, 0) for key, value in metrics.items()],
        params=[Param(key, value) for key, value in parameters.items() if key not in run.data.params],
        tags=[RunTag(key, value) for key, value in told.items()],
    )
    client.set_terminated(run_id, "FINISHED")
    return run_id
