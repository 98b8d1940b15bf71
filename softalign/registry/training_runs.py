"""Finding a run again by a stage key in its tags: on any machine, after any kill, one run for one key.

The run of a training carries the train stage's key. The first registration of its adapter takes that run over, which a
tag with the registration's own key says; each further one (another gate, another name) gets a run below it.
"""

from __future__ import annotations

from typing import Any

from softalign.registry.versions import STAGE_KEY_TAG

TRAIN_KEY_TAG = "softalign.train_key"
PARENT_TAG = "mlflow.parentRunId"
"""MLflow shows such a run below the one it names."""


def training_run(client: Any, experiment_id: str, train_key: str, name: str) -> Any:
    """Return the run of a training, which is made where there is none.

    Of several that were made at once the first is the one, for everybody; the others are deleted.
    """
    found = runs_of(client, experiment_id, TRAIN_KEY_TAG, train_key)
    if not found:
        made = client.create_run(experiment_id, run_name=name, tags={TRAIN_KEY_TAG: train_key})
        found = runs_of(client, experiment_id, TRAIN_KEY_TAG, train_key) or [made]
    first, *others = sorted(found, key=lambda run: (STAGE_KEY_TAG not in run.data.tags, *_age(run)))
    for other in others:
        if STAGE_KEY_TAG not in other.data.tags:
            client.delete_run(other.info.run_id)
    return first


def registration_run(client: Any, experiment_id: str, key: str, train_key: str, name: str) -> Any:
    """Return the run of a registration: its training's, unless another registration has that, else one below it.

    Args:
        client: of the registry.
        experiment_id: where runs are recorded.
        key: the stage key of the registration.
        train_key: the stage key of the training.
        name: of a run that is made.
    """
    found = runs_of(client, experiment_id, STAGE_KEY_TAG, key)
    if found:
        return found[0]
    run = training_run(client, experiment_id, train_key, name)
    if _takes(client, run, key):
        return run
    tags = {STAGE_KEY_TAG: key, PARENT_TAG: run.info.run_id}
    return client.create_run(experiment_id, run_name=name, tags=tags)


def _takes(client: Any, run: Any, key: str) -> bool:
    """Take a training's run over for a registration; return whether it has it then."""
    if STAGE_KEY_TAG not in run.data.tags:
        client.set_tag(run.info.run_id, STAGE_KEY_TAG, key)
        run = client.get_run(run.info.run_id)  # another registration may have been later, and has it
    return bool(run.data.tags[STAGE_KEY_TAG] == key)


def runs_of(client: Any, experiment_id: str, tag: str, value: str) -> list[Any]:
    """Return the runs with a tag of this value, the oldest first."""
    return sorted(client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'"), key=_age)


def _age(run: Any) -> tuple[int, str]:
    return run.info.start_time, run.info.run_id
