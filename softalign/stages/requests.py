"""What each stage is asked for, field by field, kept beside its record: a stage key alone cannot say what changed.

``request.json`` holds what the key was made of. It is no part of the published content: neither the record nor the list
of files names it, so no digest depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import Field

from softalign.adapters.locating import resolved
from softalign.artifacts import (
    Adapter,
    Arm,
    ComparisonReport,
    DatasetManifest,
    EncodedManifest,
    EvalReport,
    Frozen,
    Record,
    Stage,
)
from softalign.backbones.locating import model_fingerprint
from softalign.config.curation import ShapesSource
from softalign.config.recipe import Recipe
from softalign.data.curation.fingerprint import source_fingerprint
from softalign.evaluation.evaluated_tokens import tokens_digest
from softalign.store.files import write_atomically
from softalign.store.store import Store
from softalign.version import __version__

TOKENS_OF: dict[Arm, str] = {"untrained": "train (step-0 tokens)", "adapter": "train"}
"""What an arm's images are drawn with, as an input's label."""


class StageRequest(Frozen):
    """What a stage key was made of.

    Attributes:
        variant: which of several outputs of the stage: an evaluation's arm, a registration's registry.
        config: the recipe's sections, resolved.
        content: digests of what lies outside the store, by the field that names it.
        inputs: digests of what earlier stages published, by label; an input that is not known yet is left out.
    """

    schema_version: Literal[1] = 1
    stage: Stage
    variant: str = ""
    library_version: str = __version__
    config: dict[str, Any]
    content: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the stored form."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"


@contextmanager
def asking(request: StageRequest, key: str, store: Store) -> Iterator[None]:
    """Have the request published with what the stage publishes meanwhile, here or in a child process."""
    path = store.request_path(request.stage, key)
    write_atomically(path, request.to_json())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def curate_request(recipe: Recipe) -> StageRequest:
    """Return what a recipe asks of ``curate``.

    Raises:
        MissingInputError: a source's captions table is not there.
    """
    content = {
        f"curation.sources.{index}": source_fingerprint(source)
        for index, source in enumerate(recipe.curation.sources)
        if not isinstance(source, ShapesSource)
    }
    return StageRequest(stage="curate", config=_sections(recipe, "curation"), content=content)


def encode_request(recipe: Recipe, dataset: DatasetManifest | None) -> StageRequest:
    """Return what a recipe asks of ``encode``; the dataset may be unknown yet."""
    edits = {"train": {"negatives": {"num_hard": recipe.train.negatives.num_hard}}}
    config = _sections(recipe, "backbone") | edits
    return StageRequest(stage="encode", config=config, content=_model(recipe), inputs=_inputs(curate=dataset))


def train_request(recipe: Recipe, encoded: EncodedManifest | None) -> StageRequest:
    """Return what a recipe asks of ``train``; the encoded set may be unknown yet.

    Raises:
        MissingInputError: the adapter of ``train.init_from`` is not there.
    """
    config = _sections(recipe, "name", "backbone") | {"train": resolved(recipe.train).model_dump(mode="json")}
    return StageRequest(stage="train", config=config, content=_model(recipe), inputs=_inputs(encode=encoded))


def evaluate_request(recipe: Recipe, arm: Arm, adapter: Adapter | None, store: Store) -> StageRequest:
    """Return what a recipe asks of ``evaluate`` for one arm; its adapter may be unknown yet."""
    digest = tokens_digest(arm, adapter, store)
    return StageRequest(
        stage="evaluate",
        variant=arm,
        config=_sections(recipe, "backbone") | {"evaluate": recipe.evaluate.of_arm(arm).model_dump(mode="json")},
        content=_model(recipe),
        inputs={TOKENS_OF[arm]: digest} if digest else {},
    )


def compare_request(recipe: Recipe, reports: tuple[EvalReport, ...]) -> StageRequest:
    """Return what a recipe asks of ``compare``; the reports may be unknown yet."""
    inputs = {f"evaluate ({report.arm})": report.digest for report in reports}
    return StageRequest(stage="compare", config=_sections(recipe, "evaluate"), inputs=inputs)


def register_request(
    recipe: Recipe, adapter: Adapter | None, comparison: ComparisonReport | None, store: Store
) -> StageRequest:
    """Return what a recipe asks of ``register``; its inputs may be unknown yet."""
    from softalign.registry import public_uri, tracking_uri

    registry = public_uri(tracking_uri(recipe.runtime, store), store)
    inputs = _inputs(train=adapter, compare=comparison)
    return StageRequest(stage="register", variant=registry, config=_sections(recipe, "register"), inputs=inputs)


def _sections(recipe: Recipe, *names: str) -> dict[str, Any]:
    whole = recipe.model_dump(mode="json", by_alias=True)
    return {name: whole[name] for name in names}


def _model(recipe: Recipe) -> dict[str, str]:
    return {"backbone.model": model_fingerprint(recipe.backbone)}


def _inputs(**records: Record | None) -> dict[str, str]:
    return {label: record.digest for label, record in records.items() if record is not None}
