"""What a stopped run has to go on from, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator

from softalign.artifacts import Adapter, ComparisonReport, DatasetManifest, EncodedManifest, EvalReport, ModelVersion
from softalign.config.recipe import Recipe
from softalign.stages.keys import compare_key, curate_key, encode_key, evaluate_key, register_key, train_key
from softalign.stages.run import arms_of, evaluate_label, split_arms
from softalign.store.store import Store


def kept_line(recipe: Recipe, store: Store) -> str:
    """Return which stages are finished, how far the one under way is, and how to go on."""
    parts = list(_kept(recipe, store))
    if not parts:
        return f"stopped: no stage is finished yet in {store.uri}; the same command goes on"
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    verb = "are" if len(parts) > 1 else "is"
    return f"stopped: {listed} {verb} kept in {store.uri}; the same command goes on from there"


def _kept(recipe: Recipe, store: Store) -> Iterator[str]:
    dataset = store.find(DatasetManifest, curate_key(recipe))
    if dataset is None:
        return
    yield "curate"
    encoded = store.find(EncodedManifest, encode_key(recipe, dataset))
    if encoded is None:
        return
    yield "encode"
    key = train_key(recipe, encoded)
    adapter = store.find(Adapter, key)
    if adapter is None:
        yield from _kept_steps(recipe, store, key)
        return
    yield "train"
    yield from _kept_evaluation(recipe, store, adapter)


def _kept_steps(recipe: Recipe, store: Store, key: str) -> Iterator[str]:
    # checkpoints.list_checkpoints would load torch, for seconds
    names = [path.name for path in (store.work_path("train", key) / "checkpoints").glob("step-*")]
    steps = max((int(name.removeprefix("step-")) for name in names), default=0)
    if steps:
        yield f"{steps} of {recipe.train.num_steps} training steps"


def _kept_evaluation(recipe: Recipe, store: Store, adapter: Adapter) -> Iterator[str]:
    reports: list[EvalReport] = []
    for arm in arms_of(recipe):
        key = evaluate_key(recipe, arm, adapter, store)
        report = store.find(EvalReport, key)
        if report is None:
            num_images = sum(1 for _ in store.work_path("evaluate", key).rglob("[0-9]*.png"))
            if num_images:
                yield f"{num_images} images of {evaluate_label(arm)}"
            return
        yield evaluate_label(arm)
        reports.append(report)
    comparison = store.find(ComparisonReport, compare_key(recipe, *split_arms(reports)))
    if comparison is None:
        return
    yield "compare"
    if store.find(ModelVersion, register_key(recipe, adapter, comparison, store)) is not None:
        yield "register"
