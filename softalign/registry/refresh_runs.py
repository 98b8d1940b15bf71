"""The run of a refresh: which version of a dataset came of which, on MLflow's pages also where nobody trains on it yet.

Best effort, as everything that is logged beside the work: a registry that is away costs one warning.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from softalign.artifacts import DatasetManifest, EncodedManifest
from softalign.config.recipe import Recipe
from softalign.credentials import without_secrets
from softalign.errors import SoftAlignError
from softalign.registry.connection import public_uri, registry_client
from softalign.registry.experiments import NOTE_TAG, experiment_of
from softalign.registry.links import ORCHESTRATOR_TAG, page_of_run
from softalign.registry.live import registry_meant
from softalign.registry.run_facts import dataset_input, user_name
from softalign.registry.training_runs import runs_of
from softalign.run_context import orchestrator_run_url
from softalign.store.store import Store
from softalign.version import __version__

logger = logging.getLogger(__name__)
REFRESH_KEY_TAG = "softalign.refresh_key"
"""The stage key of the version that came of a refresh: one run for one key."""
TIMEOUT_S = 20.0
"""After which a registry that says nothing is not waited for any more."""


@dataclass(frozen=True)
class RefreshFacts:
    """What is known of a refresh once it is done.

    Attributes:
        recipe: of the new version.
        parent: what was refreshed.
        child: what came of it.
        changes_uri: the changes, as the store keeps them.
        num_edits: how many there are.
        encoded: of the new version, if it was encoded too.
    """

    recipe: Recipe
    parent: DatasetManifest
    child: DatasetManifest
    changes_uri: str
    num_edits: int
    encoded: EncodedManifest | None = None


def log_refresh(facts: RefreshFacts, store: Store) -> None:
    """Keep a run of a refresh where a registry is meant and MLflow is installed; done again, it stays one run."""
    uri = registry_meant(facts.recipe, store)
    if uri is None:
        return
    attempt = contextvars.copy_context().run
    thread = threading.Thread(target=attempt, args=(_attempt, facts, store, uri), name="refresh run", daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    if thread.is_alive():
        _warn("no answer")


def _attempt(facts: RefreshFacts, store: Store, uri: str) -> None:
    try:
        with registry_client(uri, timeout_s=TIMEOUT_S) as client:
            run_id = _log(client, facts, store, uri)
        if page := page_of_run(public_uri(uri, store), run_id):
            logger.info("This refresh can be seen at %s", page)
    except SoftAlignError as error:
        _warn(error.what)
    except Exception as error:  # whatever a registry or its client raises: the new version is published
        _warn(without_secrets(repr(error)[:300]))


def _warn(why: str) -> None:
    logger.warning("The refresh has no MLflow run; the new version is published all the same: %s", why)


def _log(client: Any, facts: RefreshFacts, store: Store, uri: str) -> str:
    from mlflow.entities import Metric, Param, RunTag

    child = facts.child
    experiment_id = experiment_of(client, facts.recipe.register_.experiment, uri, store)
    found = runs_of(client, experiment_id, REFRESH_KEY_TAG, child.stage_key)
    tags = {REFRESH_KEY_TAG: child.stage_key}
    run = found[0] if found else client.create_run(experiment_id, run_name=_name_of(child), tags=tags)
    run_id: str = run.info.run_id
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, run.info.start_time, 0) for name, value in _sizes(facts).items()],
        params=[Param(name, value) for name, value in _parameters(facts).items() if name not in run.data.params],
        tags=[RunTag(name, value) for name, value in _tags(facts).items() if value],
    )
    client.log_inputs(run_id, datasets=list(_datasets(facts)))
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _name_of(child: DatasetManifest) -> str:
    return f"refresh {child.name} {child.stage_key[:8]}"


def _sizes(facts: RefreshFacts) -> dict[str, float]:
    parent, child = facts.parent, facts.child
    return {
        "num_edits": facts.num_edits,
        "num_samples": child.num_samples,
        "num_samples_before": parent.num_samples,
        "num_captions": child.num_captions,
        "num_captions_before": parent.num_captions,
    }


def _parameters(facts: RefreshFacts) -> dict[str, str]:
    return {
        "kind": "refresh",
        "dataset": facts.child.digest[:12],
        "dataset_parent": facts.parent.digest[:12],
        "caption_changes": without_secrets(facts.changes_uri),
    }


def _tags(facts: RefreshFacts) -> dict[str, str]:
    encoded = facts.encoded
    return {
        "softalign.kind": "refresh",
        "softalign.dataset_digest": facts.child.digest,
        "softalign.dataset_parent_key": facts.child.parent_key,
        "softalign.dataset_parent_digest": facts.parent.digest,
        "softalign.encoded_digest": encoded.digest if encoded is not None else "",
        "softalign.library_version": __version__,
        "mlflow.source.name": "softalign",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": user_name(),
        ORCHESTRATOR_TAG: orchestrator_run_url(),
        NOTE_TAG: f"A new version of the dataset {facts.child.name}, of {facts.num_edits:,} changed captions.",
    }


def _datasets(facts: RefreshFacts) -> Iterator[Any]:
    """Yield what went in and what came out, named and digested as a training that takes it says it."""
    name = facts.recipe.name
    for context, dataset in (("input", facts.parent), ("output", facts.child)):
        source = {"dataset_digest": dataset.digest}
        source |= {"dataset_parent_key": dataset.parent_key} if dataset.parent_key else {}
        sizes = {"num_rows": dataset.num_samples, "num_held_out": dataset.num_val_samples}
        yield dataset_input(name, dataset.digest, source, sizes, context)
    if (encoded := facts.encoded) is not None:
        source = {"encoded_digest": encoded.digest}
        source |= {"encoded_parent_digest": encoded.parents[1]} if len(encoded.parents) > 1 else {}
        sizes = {"num_rows": encoded.num_samples, "num_held_out": encoded.num_val_samples}
        yield dataset_input(f"{name}-encoded", encoded.digest, source, sizes, "output")
