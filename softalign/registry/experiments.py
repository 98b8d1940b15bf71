"""The experiment that runs are recorded in: made at first need, with description and place of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softalign.registry.connection import ARTIFACTS_NAME, registry_of_store
from softalign.store.store import Store

NOTE_TAG = "mlflow.note.content"
"""Of experiments and runs: what MLflow's pages show as their description."""
EXPERIMENT_NOTE = (
    "Trainings of soft text tokens by softalign. A run is one training: it begins with it, is taken up again after an "
    "interruption, and ends with scores and report once its adapter is registered. Curves are over samples seen, the "
    "images that training has used so far. A run that is called refresh is a new version of a dataset: its input is "
    "what was refreshed, its output what came of it. The adapters themselves are under Model registry, and "
    "runs under Runs, once the page is switched to model training."
)


def experiment_of(client: Any, name: str, uri: str, store: Store) -> str:
    """Return the id of an experiment, which is made where there is none.

    The files of a store's own registry lie in that store.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    is_embedded = store.is_local and uri == registry_of_store(store)
    location = (Path(store.uri) / ARTIFACTS_NAME).as_uri() if is_embedded else None
    try:
        return str(client.create_experiment(name, artifact_location=location, tags={NOTE_TAG: EXPERIMENT_NOTE}))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process made it in between
            raise
        return str(client.get_experiment_by_name(name).experiment_id)
