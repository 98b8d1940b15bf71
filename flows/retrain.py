"""All stages in order: captions to a registered adapter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.command import run_command
from flows.evaluate import evaluate_arms
from softalign.config import load_recipe
from softalign.stages.chain import summarize
from softalign.stages.ending import ChainSummary
from softalign.stages.preflight import check_chain
from softalign.stages.run import StageResult
from softalign.store.store import DEFAULT_STORE, Store
from tasks import curation, encoding, registration, training


@flow(name="softalign-retrain", flow_run_name="retrain-{recipe}", persist_result=False)
def retrain(recipe: str, overrides: Sequence[str] = (), store: str = DEFAULT_STORE) -> ChainSummary:
    """Curate, encode, train, evaluate three arms, compare and register; what is already there is reused.

    Args:
        recipe: a recipe's name or the path of a YAML file.
        overrides: ``section.field=value``, applied in order.
        store: folder or ``s3://`` URI where everything is published.
    """
    loaded, opened = load_recipe(recipe, overrides), Store(store)
    check_chain(loaded, opened)
    dataset = curation.curate(loaded, opened.uri)
    encoded = encoding.encode(loaded, dataset.record, opened.uri)
    trained = training.train(loaded, encoded.record, opened.uri)
    evaluated = evaluate_arms(loaded, trained.record, opened.uri)
    comparison = evaluated.comparison.record
    registered = registration.register(loaded, trained.record, comparison, evaluated.reports, opened.uri)
    results: tuple[StageResult[Any], ...] = (dataset, encoded, trained, *evaluated.results, registered)
    return summarize(results, evaluated.reports, trained.record, comparison, registered.record, loaded, opened)


if __name__ == "__main__":
    sys.exit(run_command(retrain))
