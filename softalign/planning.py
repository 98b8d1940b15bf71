"""What a recipe would run in a store, and why: nothing is computed, nothing is written."""

from __future__ import annotations

from typing import Literal

from softalign.artifacts import (
    BASE_ARMS,
    Adapter,
    ComparisonReport,
    DatasetManifest,
    EncodedManifest,
    EvalReport,
    Frozen,
    ModelVersion,
    Record,
)
from softalign.config import CocoSource, Recipe, ShapesSource, Source
from softalign.model_sizes import model_sizes
from softalign.preflight import check_chain
from softalign.stages import (
    arms_of,
    compare_key,
    curate_key,
    encode_key,
    evaluate_key,
    evaluate_label,
    register_key,
    split_arms,
    train_key,
)
from softalign.storage import RecordT, Store, open_filesystem

FLOAT_BYTES = 4
ENCODED_BYTES = 2
"""Encodings are stored in float16."""
SHAPES_PNG_BYTES = 700
"""Mean size of a rendered scene's PNG (measured: 200 scenes)."""
GENERATED_BYTES_PER_PIXEL = 2
"""Typical PNG size of a generated photograph (assumption; for planning only)."""


class PlannedStage(Frozen):
    """One stage of a plan.

    Attributes:
        state: ``done`` (published, will be reused), ``run`` (all inputs are there), ``wait`` (an earlier stage first).
        predicted_bytes: what it will write, about; 0 where it is done, None where it cannot be known beforehand.
    """

    label: str
    state: Literal["done", "run", "wait"]
    reason: str
    predicted_bytes: int | None
    uri: str = ""


def plan(recipe: Recipe, store: Store) -> tuple[PlannedStage, ...]:
    """Return what would run, in order.

    Raises:
        ConfigError: the chain would stop at evaluation or registration.
        MissingInputError: a source's captions table is not there, or a component of a local base model.
        DataError: one of them cannot be read.
    """
    check_chain(recipe, store)
    rows: list[PlannedStage] = []

    def add(label: str, kind: type[RecordT], key: str | None, waits_for: str, size: int | None) -> RecordT | None:
        if key is None:
            rows.append(PlannedStage(label=label, state="wait", reason=f"waits for {waits_for}", predicted_bytes=size))
            return None
        record = store.find(kind, key)
        uri = store.prefix(kind.stage, key)
        if record is not None:
            rows.append(PlannedStage(label=label, state="done", reason="published", predicted_bytes=0, uri=uri))
        else:
            reason = _why(kind, store)
            rows.append(PlannedStage(label=label, state="run", reason=reason, predicted_bytes=size, uri=uri))
        return record

    dataset = add("curate", DatasetManifest, curate_key(recipe), "", _curate_bytes(recipe))
    key = encode_key(recipe, dataset) if dataset else None
    encoded = add("encode", EncodedManifest, key, "curate", _encode_bytes(recipe, dataset))
    key = train_key(recipe, encoded) if encoded else None
    adapter = add("train", Adapter, key, "encode", _train_bytes(recipe))
    reports: list[EvalReport] = []
    for arm in arms_of(recipe):
        key = evaluate_key(recipe, arm, adapter) if arm in BASE_ARMS or adapter is not None else None
        report = add(evaluate_label(arm), EvalReport, key, "train", _evaluate_bytes(recipe))
        if report is not None:
            reports.append(report)
    key = None
    if len(reports) == len(arms_of(recipe)):
        key = compare_key(recipe, *split_arms(reports))
    comparison = add("compare", ComparisonReport, key, "evaluate", None)
    key = register_key(recipe, adapter, comparison, store) if adapter and comparison else None
    add("register", ModelVersion, key, "compare", None)
    return tuple(rows)


def _why(kind: type[Record], store: Store) -> str:
    filesystem, path = open_filesystem(f"{store.uri}/{kind.stage}")
    others = len(filesystem.ls(path, detail=False)) if filesystem.exists(path) else 0
    if others == 0:
        return "this store has no output of this stage"
    return f"configuration, inputs or library version differ from the {others} published output(s)"


def _source_counts(source: Source) -> tuple[int, int] | None:
    """Return the numbers of images and captions a source announces; of a Parquet table, neither without reading it."""
    if isinstance(source, ShapesSource):
        return source.num_scenes, source.num_scenes * source.captions_per_scene
    if isinstance(source, CocoSource):
        from softalign.curation.sources import read_coco

        captions = read_coco(source)
        return len(captions), sum(len(texts) for texts in captions.values())
    return None


def _curate_bytes(recipe: Recipe) -> int | None:
    total = 0
    for source in recipe.curation.sources:
        if isinstance(source, ShapesSource):
            total += source.num_scenes * SHAPES_PNG_BYTES
            continue
        filesystem, path = open_filesystem(source.images_uri)
        total += int(filesystem.du(path)) if filesystem.exists(path) else 0
    return total


def _encode_bytes(recipe: Recipe, dataset: DatasetManifest | None) -> int | None:
    if dataset is not None:
        num_samples, num_captions = dataset.num_samples, dataset.num_captions
    else:
        counts = [_source_counts(source) for source in recipe.curation.sources]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts):
            return None
        num_samples, num_captions = sum(images for images, _ in known), sum(captions for _, captions in known)
    num_texts = num_captions * (1 + recipe.encode.hard_negatives_per_caption)
    sizes = model_sizes(recipe.backbone)
    return ENCODED_BYTES * (num_samples * sizes.latent + num_texts * sizes.text)


def _train_bytes(recipe: Recipe) -> int | None:
    tokens = recipe.train.soft_tokens
    width = (tokens.num_layers or 1) * model_sizes(recipe.backbone).token_width
    banks = 2 if recipe.train.objective.banks == "dual" else 1
    values = (banks * tokens.num_soft_tokens + tokens.num_timestep_bins) * width
    metrics_bytes_per_step = 300
    return 3 * values * FLOAT_BYTES + recipe.train.num_steps * metrics_bytes_per_step


def _evaluate_bytes(recipe: Recipe) -> int | None:
    if recipe.evaluate.suite == "shapes":
        from softalign.shapes.suite import build_suite

        num_prompts, image_bytes = len(build_suite()), SHAPES_PNG_BYTES
    else:
        num_prompts, image_bytes = 553, GENERATED_BYTES_PER_PIXEL * recipe.evaluate.side_px(recipe.backbone) ** 2
    return num_prompts * recipe.evaluate.images_per_prompt * image_bytes
