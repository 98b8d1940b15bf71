"""What a run says of its training from the first minute: what people compare, recipe, data, and whose work it is."""

from __future__ import annotations

import getpass
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from softalign.artifacts import EncodedManifest
from softalign.config.paths import lookup
from softalign.config.recipe import Recipe
from softalign.credentials import without_secrets
from softalign.registry.experiments import NOTE_TAG
from softalign.registry.links import ORCHESTRATOR_TAG
from softalign.run_context import orchestrator_run_url
from softalign.version import __version__

RECIPE_FILENAME = "recipe.yaml"
SAMPLES_FOLDER = "samples"
"""Of the sample sheets, in a training's work folder, in the adapter, and in the run."""
MAX_DATASET_DIGEST_CHARS = 36
"""Limit of MLflow's dataset inputs; the whole digest is in the run's tags."""
SHORT_DIGEST_CHARS = 12
COMPARED = {
    "objective": "objective.name",
    "num_steps": "num_steps",
    "batch_size": "batch_size",
    "learning_rate": "optimizer.learning_rate",
    "num_soft_tokens": "soft_tokens.num_soft_tokens",
    "temperature": "objective.temperature",
    "gamma_positive": "objective.gamma_positive",
    "gamma_negative": "objective.gamma_negative",
    "seed": "seed",
}
"""A run's parameters, by where they stand in a training's configuration; the whole recipe is an artifact."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of a training before its first step.

    Attributes:
        name: of recipe and adapter.
        base_model: of the adapter.
        train: the configuration, as JSON.
        dataset_digest: of the curated images and captions.
        encoded_digest: of their encodings.
        recipe: None where only the adapter is known.
        encoded: the record of the encodings; None where only the adapter is known.
    """

    name: str
    base_model: str
    train: Mapping[str, Any]
    dataset_digest: str
    encoded_digest: str
    recipe: Recipe | None = None
    encoded: EncodedManifest | None = None


def facts_of(recipe: Recipe, encoded: EncodedManifest) -> RunFacts:
    """Return what a recipe and an encoded set say of their training."""
    return RunFacts(
        name=recipe.name,
        base_model=recipe.backbone.model,
        train=recipe.train.model_dump(mode="json"),
        dataset_digest=encoded.parents[0] if encoded.parents else encoded.digest,
        encoded_digest=encoded.digest,
        recipe=recipe,
        encoded=encoded,
    )


def log_facts(client: Any, run: Any, facts: RunFacts) -> None:
    """Log what the run does not say yet; recipe and orchestrator's page anew, of whoever works on the run now."""
    from mlflow.entities import Param, RunTag

    run_id, data = run.info.run_id, run.data
    values = {name: value for name, value in parameters(facts).items() if name not in data.params}
    tags = {name: value for name, value in _tags(facts).items() if name not in data.tags or name == ORCHESTRATOR_TAG}
    client.log_batch(
        run_id,
        params=[Param(name, value) for name, value in values.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    client.log_inputs(run_id, datasets=list(_inputs(facts)))
    if facts.recipe is not None:
        client.log_text(run_id, recipe_text(facts.recipe), RECIPE_FILENAME)


def parameters(facts: RunFacts) -> dict[str, str]:
    """Return the dozen values that people compare runs by; those that the objective does not have are left out."""
    train = facts.train
    found = {name: lookup(train, path) for name, path in COMPARED.items()}
    found |= {"base_model": facts.base_model, "dataset": facts.dataset_digest[:SHORT_DIGEST_CHARS]}
    found |= {"token_layers": _token_layers(train), "num_negatives": _num_negatives(train)}
    return {name: str(value) for name, value in sorted(found.items()) if value is not None}


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe with all its values as YAML, without the logins of addresses."""
    return without_secrets(yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False))


def _token_layers(train: Mapping[str, Any]) -> str | None:
    """Return which blocks of a U-Net, or which joint blocks of an MMDiT, have tokens."""
    blocks, number = lookup(train, "soft_tokens.blocks"), lookup(train, "soft_tokens.num_layers")
    if blocks is not None:
        return "+".join(blocks)
    return None if number is None else f"{lookup(train, 'soft_tokens.layers')} {number}"


def _num_negatives(train: Mapping[str, Any]) -> int | None:
    number: int | None = lookup(train, "negatives.num_negatives")
    batch_size: int | None = lookup(train, "batch_size")
    return batch_size - 1 if number is None and batch_size is not None else number


def _tags(facts: RunFacts) -> dict[str, str]:
    found = {
        "softalign.dataset_digest": facts.dataset_digest,
        "softalign.encoded_digest": facts.encoded_digest,
        **{f"softalign.{name}": value for lineage in _lineage(facts).values() for name, value in lineage.items()},
        "softalign.library_version": __version__,
        "mlflow.source.name": "softalign",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": source_commit(),
        "mlflow.user": user_name(),
        ORCHESTRATOR_TAG: orchestrator_run_url(),
        NOTE_TAG: note(facts),
    }
    return {name: value for name, value in found.items() if value}


def note(facts: RunFacts) -> str:
    """Return what is trained, in sentences."""
    chosen, encoded = parameters(facts), facts.encoded
    data = f"dataset {chosen['dataset']}" if encoded is None else f"{encoded.num_samples} images of {encoded.name}"
    steps = f"{chosen.get('num_steps', '?')} steps of {chosen.get('batch_size', '?')} images"
    objective = chosen.get("objective", "an objective that is not known")
    recipe = f" The whole recipe is in {RECIPE_FILENAME}." if facts.recipe is not None else ""
    return (
        f"Soft text tokens for {facts.base_model}, trained by {objective} in {steps} on {data}. The base model is "
        f"frozen.{recipe}"
    )


def source_commit() -> str:
    """Return the commit of the git checkout that is worked in; empty where there is none, or no git."""
    from mlflow.utils.git_utils import get_git_commit

    return (get_git_commit(str(Path.cwd())) or "") if shutil.which("git") else ""


def user_name() -> str:
    """Return who works here; empty where that has no name."""
    with suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        return getpass.getuser()
    return ""


def _lineage(facts: RunFacts) -> dict[str, dict[str, str]]:
    """Return what dataset and encodings are a refresh of, each by its name here; nothing of those that are none."""
    encoded = facts.encoded
    if encoded is None or not encoded.dataset_parent_key:
        return {}
    found = {"dataset_digest": {"dataset_parent_key": encoded.dataset_parent_key}}
    if len(encoded.parents) > 1:
        found["encoded_digest"] = {"encoded_parent_digest": encoded.parents[1]}
    return found


def _inputs(facts: RunFacts) -> Iterator[Any]:
    """Yield the curated dataset and its encodings as MLflow's dataset inputs."""
    encoded = facts.encoded
    sizes = {} if encoded is None else {"num_rows": encoded.num_samples, "num_held_out": encoded.num_val_samples}
    for name, kind, digest in (
        (facts.name, "dataset_digest", facts.dataset_digest),
        (f"{facts.name}-encoded", "encoded_digest", facts.encoded_digest),
    ):
        yield dataset_input(name, digest, {kind: digest, **_lineage(facts).get(kind, {})}, sizes, "training")


def dataset_input(name: str, digest: str, source: Mapping[str, str], sizes: Mapping[str, int], context: str) -> Any:
    """Return a dataset as MLflow lists it with a run; ``context`` says what the run has to do with it."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=name,
        digest=digest[:MAX_DATASET_DIGEST_CHARS],
        source_type="softalign",
        source=json.dumps(source),
        profile=json.dumps(sizes) if sizes else None,
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)])
