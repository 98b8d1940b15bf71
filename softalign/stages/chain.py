"""The stages in their order, in this process: what a shell or notebook runs, with no server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from softalign.artifacts import (
    Adapter,
    Arm,
    ComparisonReport,
    DatasetManifest,
    EncodedManifest,
    EvalReport,
    ModelVersion,
)
from softalign.config.recipe import Recipe
from softalign.processes.supervise import OnLine
from softalign.stages.ending import ChainSummary
from softalign.stages.keys import Reports, compare_key, curate_key, encode_key, evaluate_key, train_key
from softalign.stages.preflight import check_chain
from softalign.stages.run import (
    StageResult,
    arms_of,
    evaluate_label,
    require,
    run_compare,
    run_curate,
    run_encode,
    run_evaluate,
    run_register,
    run_train,
    split_arms,
)
from softalign.store.store import RecordT, Store

StageName = Literal["curate", "encode", "train", "evaluate", "register"]


def summarize(
    results: Sequence[StageResult[Any]],
    reports: Reports,
    adapter: Adapter,
    comparison: ComparisonReport,
    version: ModelVersion,
    recipe: Recipe,
    store: Store,
) -> ChainSummary:
    """Return the summary of a finished chain."""
    from softalign.registry import reachable_uri, registered_decision, registry_of_store

    base, untrained, candidate = reports
    registry, gate = reachable_uri(version.tracking_uri, store), registered_decision(version, store)
    scores = zip(base.tags, untrained.tags, candidate.tags, strict=True)
    return ChainSummary(
        name=adapter.name,
        store=store.uri,
        num_stages_run=sum(not result.is_reused for result in results),
        num_stages_reused=sum(result.is_reused for result in results),
        overall_base=base.overall_score,
        overall_untrained=untrained.overall_score,
        overall_adapter=candidate.overall_score,
        denoiser_calls_per_image=comparison.denoiser_calls_per_image,
        guided_base=comparison.guided_base,
        tags=tuple((one.tag, one.score, two.score, three.score) for one, two, three in scores),
        model=version.name,
        version=version.version,
        alias=version.alias,
        reason=version.reason,
        adapter_uri=adapter.uri,
        report_uri=f"{comparison.uri}/report.html",
        tracking_uri=registry,
        suite=comparison.suite,
        confidence=recipe.evaluate.confidence,
        adapter_vs_base=comparison.adapter_vs_base,
        adapter_vs_untrained=comparison.adapter_vs_untrained,
        checks=gate.checks,
        is_promoted=gate.is_promoted,
        is_registry_of_store=store.is_local and registry == registry_of_store(store),
        num_inference_steps=recipe.evaluate.num_inference_steps,
        guidance_scale=recipe.evaluate.guidance_scale,
        seconds=round(sum(result.seconds for result in results), 3),
    )


def run_until(
    last: StageName, recipe: Recipe, store: Store, on_line: OnLine, *, is_through: bool
) -> tuple[StageResult[Any], ...]:
    """Run one stage, and with ``is_through`` the ones before it, and return what was run or reused, in order.

    Raises:
        ConfigError: a stage up to this one would be refused.
        MissingInputError: an earlier stage has not run and ``is_through`` is False, or a source or model is not there.
        DataError: a source or model cannot be used.
    """
    check_chain(recipe, store, last)
    results: list[StageResult[Any]] = []

    def keep(result: StageResult[RecordT]) -> RecordT:
        on_line(result.message)
        results.append(result)
        return result.record

    def existing(kind: type[RecordT], key: str) -> RecordT:
        return require(kind, key, store)

    def runs(stage: StageName) -> bool:
        return is_through or stage == last

    dataset = keep(run_curate(recipe, store)) if runs("curate") else existing(DatasetManifest, curate_key(recipe))
    if last == "curate":
        return tuple(results)
    key = encode_key(recipe, dataset)
    encoded = keep(run_encode(recipe, dataset, store)) if runs("encode") else existing(EncodedManifest, key)
    if last == "encode":
        return tuple(results)
    key = train_key(recipe, encoded)
    adapter = keep(run_train(recipe, encoded, store, on_line)) if runs("train") else existing(Adapter, key)
    if last == "train":
        return tuple(results)

    def report_of(arm: Arm) -> EvalReport:
        if runs("evaluate"):
            return keep(run_evaluate(recipe, arm, adapter, store, on_line))
        return existing(EvalReport, evaluate_key(recipe, arm, adapter, store))

    reports, guided_base = split_arms([report_of(arm) for arm in arms_of(recipe)])
    if runs("evaluate"):
        comparison = keep(run_compare(recipe, reports, guided_base, adapter, store))
    else:
        comparison = existing(ComparisonReport, compare_key(recipe, reports, guided_base))
    if last == "register":
        keep(run_register(recipe, adapter, comparison, reports, store))
    return tuple(results)


def run_chain(recipe: Recipe, store: Store, on_line: OnLine) -> ChainSummary:
    """Run the whole chain and return its summary."""
    results = run_until("register", recipe, store, on_line, is_through=True)
    records = {result.label: result.record for result in results}
    reports, _ = split_arms([records[evaluate_label(arm)] for arm in arms_of(recipe)])
    return summarize(results, reports, records["train"], records["compare"], records["register"], recipe, store)
