"""What each stage is asked for, field by field: its stage key is the digest of it, and says what is there already.

``request.json``, kept beside the record, says what the key alone cannot: what changed. It is no part of the published
content: neither the record nor the list of files names it, so no digest depends on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import Field

from softalign.adapters.locating import resolved
from softalign.artifacts import (
    Adapter,
    Arm,
    ComparisonReport,
    DatasetManifest,
    EncodedManifest,
    Frozen,
    Record,
    Stage,
    digest_of,
)
from softalign.backbones.locating import files_fingerprint, model_fingerprint
from softalign.config.curation import WEIGHTS, CurationConfig, HttpConfig, ShapesSource, TableSource
from softalign.config.recipe import Recipe
from softalign.data.curation.colour import DECODER
from softalign.data.curation.fingerprint import evaluation_fingerprints, source_fingerprint
from softalign.data.curation.hashing import HASHES
from softalign.data.curation.transcoding import FITTING
from softalign.detectors.identity import detector_fingerprint
from softalign.evaluation.evaluated_tokens import tokens_digest
from softalign.metrics.reference import DISTANCE_FIELD, distance_fingerprint
from softalign.metrics.scorer import metric_fingerprint
from softalign.stages.newer import newest
from softalign.stages.published import Published, label_of
from softalign.stages.turns import Turn
from softalign.store.files import read_bytes, write_atomically
from softalign.store.store import Store
from softalign.version import __version__

TOKENS_OF: dict[Arm, str] = {"untrained": "train (step-0 tokens)", "adapter": "train", "champion": "champion"}
"""What an arm's images are drawn with, as an input's label."""
LATER_FIELDS = ("caption_changes", "captions_in_tars", "image_size_px")
"""Of curation, left out of requests where they are the default: keys are as they were before there were any."""
BEFORE_REFRESH = "encode (before the refresh)"
"""The label of a refreshed dataset's earlier encodings."""


class StageRequest(Frozen):
    """What a stage key was made of.

    Attributes:
        variant: which of several outputs of the stage: an evaluation's arm, a registration's registry.
        config: the recipe's sections, resolved.
        content: digests of what lies outside the store, by the field that names it.
        inputs: digests of what earlier stages published, by label; in a plan, one that is not known yet is left out.
        library_version: another version may answer otherwise.
    """

    schema_version: Literal[1] = 1
    stage: Stage
    variant: str = ""
    library_version: str = Field(default_factory=lambda: __version__)
    config: dict[str, Any]
    content: dict[str, str] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)

    @property
    def key(self) -> str:
        """The stage key: the digest of all of it. The same key means the same answer."""
        return digest_of(self.model_dump(mode="json"))

    def to_json(self) -> bytes:
        """Return the stored form."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"


@contextmanager
def asking(request: StageRequest, store: Store) -> Iterator[None]:
    """Have the request published with what the stage publishes meanwhile, here or in a child process.

    An attempt that fails leaves it: another one may be at work, and what a key asks for is the same for both.
    """
    path = store.request_path(request.stage, request.key)
    write_atomically(path, request.to_json())
    yield
    path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class StageInputs:
    """What one stage starts from.

    Attributes:
        recipe: the whole recipe; each stage reads its own sections.
        store: where inputs lie and outputs go.
        inputs: what the stages before it published; in a plan, as far as that is known.
        arm: of an evaluation.
        guidance_scale: of a sweep's arm; the recipe has it then.
        turn: what the stage holds while it works.
    """

    recipe: Recipe
    store: Store
    inputs: Published = field(default_factory=Published)
    arm: Arm | None = None
    guidance_scale: float | None = None
    turn: Turn = field(default_factory=Turn)

    @property
    def evaluation_label(self) -> str:
        """What the evaluation of the arm is called."""
        return label_of("evaluate", self.arm, self.guidance_scale)

    @property
    def evaluated_arm(self) -> Arm:
        """The arm of an evaluation.

        Raises:
            ValueError: none is named.
        """
        if self.arm is None:
            raise ValueError("an evaluation is of one arm")
        return self.arm


def curate_request(given: StageInputs) -> StageRequest:
    """Return what a recipe asks of ``curate``.

    Raises:
        MissingInputError: a source's captions table, or a file of evaluation prompts, is not there.
    """
    content = {
        f"curation.sources.{index}": source_fingerprint(source)
        for index, source in enumerate(given.recipe.curation.sources)
        if not isinstance(source, ShapesSource)
    }
    changes = given.recipe.curation.caption_changes
    content |= {f"curation.caption_changes.{index}": _digest_at(uri) for index, uri in enumerate(changes)}
    filters = given.recipe.curation.filters
    content |= evaluation_fingerprints(filters)
    content |= {
        f"curation.filters.models.{index}": files_fingerprint(model.model, model.revision)
        for index, model in enumerate(filters.models)
    }
    config = _sections(given, "curation") | {"decoder": DECODER}
    config |= {"hashes": HASHES} if filters.asks_for_hashes else {}
    config |= {"fitting": FITTING} if given.recipe.curation.image_size_px is not None else {}
    _drop_defaults(config["curation"], CurationConfig, LATER_FIELDS)
    for source in config["curation"]["sources"]:
        _drop_unset(source)
    return StageRequest(stage="curate", config=config, content=content)


def _drop_defaults(section: dict[str, Any], of: type[Frozen], names: tuple[str, ...]) -> None:
    defaults = {name: of.model_fields[name].default for name in names}
    for name, default in defaults.items():
        if section.get(name) == (list(default) if isinstance(default, tuple) else default):
            del section[name]


def _drop_unset(source: dict[str, Any]) -> None:
    """Leave out what sources say of weights and of HTTP since they all do, where it is the default."""
    for name in WEIGHTS:
        if set(_listed(source.get(name, ()))) <= {1.0}:
            source.pop(name, None)
    default = HttpConfig().model_dump(mode="json")
    if source["type"] != TableSource.model_fields["type"].default and source.get("http") == default:
        del source["http"]
    elif source.get("http", {}).get("max_table_bytes") == default["max_table_bytes"]:
        del source["http"]["max_table_bytes"]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def parent_request(given: StageInputs) -> StageRequest | None:
    """Return what was asked of ``curate`` before the last of the caption changes; None where there are none.

    Raises:
        MissingInputError: a source's captions table is not there.
    """
    curation = given.recipe.curation
    if not curation.caption_changes:
        return None
    before = curation.model_copy(update={"caption_changes": curation.caption_changes[:-1]})
    return curate_request(replace(given, recipe=given.recipe.model_copy(update={"curation": before})))


def _digest_at(uri: str) -> str:
    return hashlib.sha256(read_bytes(uri)).hexdigest()


def encode_request(given: StageInputs) -> StageRequest:
    """Return what a recipe asks of ``encode``; of a refreshed dataset, beside the encodings of the one before."""
    edits = {"train": {"negatives": given.recipe.train.negatives.asked_edits()}}
    config = _sections(given, "backbone") | edits | {"decoder": DECODER}
    if given.recipe.encode.text != "stored":  # else keys are as they were before there was a choice
        config |= _sections(given, "encode")
    before, inputs = encoded_before(given), _inputs(given, DatasetManifest)
    inputs |= {BEFORE_REFRESH: before.digest} if before is not None else {}
    return StageRequest(stage="encode", config=config, content=_model(given), inputs=inputs)


def encoded_before(given: StageInputs) -> EncodedManifest | None:
    """Return the published encodings, by the same model, of the dataset that the present one is a refresh of."""
    dataset = given.inputs.find(DatasetManifest)
    parent = (
        given.store.find(DatasetManifest, dataset.parent_key) if dataset is not None and dataset.parent_key else None
    )
    if parent is None:
        return None
    before = encode_request(replace(given, inputs=Published().plus(label_of("curate"), newest(parent, given.store))))
    return given.store.find(EncodedManifest, before.key)


def train_request(given: StageInputs) -> StageRequest:
    """Return what a recipe asks of ``train``.

    Raises:
        MissingInputError: the adapter of ``train.init_from`` is not there.
    """
    train = {"train": resolved(given.recipe.train).asked()}
    config = _sections(given, "name", "backbone") | train
    return StageRequest(stage="train", config=config, content=_model(given), inputs=_inputs(given, EncodedManifest))


def evaluate_request(given: StageInputs) -> StageRequest:
    """Return what a recipe asks of ``evaluate`` for one arm: adapters share base, and what has the same tokens.

    Raises:
        ValueError: no arm is named.
    """
    arm, config = given.evaluated_arm, given.recipe.evaluate
    digest = tokens_digest(arm, given.inputs.find(Adapter), given.store, config.pinned_champion)
    prompts = {} if config.prompts_uri is None else {"evaluate.prompts_uri": _digest_at(config.prompts_uri)}
    return StageRequest(
        stage="evaluate",
        variant=arm,
        config=_sections(given, "backbone") | {"evaluate": config.of_arm(arm).asked()},
        content=_model(given) | _detector(given) | prompts,
        inputs={TOKENS_OF[arm]: digest} if digest else {},
    )


def compare_request(given: StageInputs) -> StageRequest:
    """Return what a recipe asks of ``compare``."""
    inputs = {f"evaluate ({report.arm})": report.digest for report in given.inputs.eval_reports}
    inputs |= {
        label_of("evaluate", report.arm, report.guidance_scale): report.digest for report in given.inputs.sweep_reports
    }
    evaluate = given.recipe.evaluate
    config = {"evaluate": evaluate.asked() | {"champion": evaluate.pinned_champion or "none"}}
    return StageRequest(stage="compare", config=config, inputs=inputs)


def register_request(given: StageInputs) -> StageRequest:
    """Return what a recipe asks of ``register``; another registry is another request."""
    from softalign.registry import public_uri, tracking_uri

    registry = public_uri(tracking_uri(given.recipe.runtime, given.store), given.store)
    inputs = _inputs(given, Adapter, ComparisonReport)
    return StageRequest(stage="register", variant=registry, config=_sections(given, "register"), inputs=inputs)


def _sections(given: StageInputs, *names: str) -> dict[str, Any]:
    whole = given.recipe.model_dump(mode="json", by_alias=True)
    return {name: whole[name] for name in names}


def _model(given: StageInputs) -> dict[str, str]:
    return {"backbone.model": model_fingerprint(given.recipe.backbone)}


def _detector(given: StageInputs) -> dict[str, str]:
    """Return what is looked at images with; the embedded world's detector is of the library's version."""
    evaluate = given.recipe.evaluate.of_arm(given.evaluated_arm)
    metrics = {f"evaluate.metrics.{metric.name}": metric_fingerprint(metric) for metric in evaluate.metrics}
    if evaluate.distance is not None:
        metrics[DISTANCE_FIELD] = distance_fingerprint(evaluate.distance)
    return metrics | ({} if evaluate.is_embedded else {"evaluate.detector": detector_fingerprint(evaluate.detector)})


def _inputs(given: StageInputs, *kinds: type[Record]) -> dict[str, str]:
    found = {kind.stage: given.inputs.find(kind) for kind in kinds}
    return {stage: record.digest for stage, record in found.items() if record is not None}
