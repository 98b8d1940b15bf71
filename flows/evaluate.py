"""Evaluate a recipe's adapter beside its base model and untrained tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect import flow

from flows.command import run_command
from flows.summary import FlowSummary, summarize_stages
from softalign.artifacts import BASE_ARMS, Adapter, ComparisonReport, EvalReport
from softalign.config import Recipe, load_recipe
from softalign.stages.keys import Reports
from softalign.stages.published import published_adapter
from softalign.stages.run import StageResult, arms_of, split_arms
from softalign.store.store import DEFAULT_STORE, Store
from tasks import evaluation


@dataclass(frozen=True)
class Evaluation:
    """The arms, base, untrained tokens and adapter first, and their comparison."""

    arms: tuple[StageResult[EvalReport], ...]
    comparison: StageResult[ComparisonReport]

    @property
    def reports(self) -> Reports:
        """The reports of base, untrained tokens and adapter."""
        return split_arms([arm.record for arm in self.arms])[0]

    @property
    def results(self) -> tuple[StageResult[Any], ...]:
        """All stage results, in order."""
        return (*self.arms, self.comparison)


def evaluate_arms(recipe: Recipe, adapter: Adapter, store_uri: str) -> Evaluation:
    """Run the evaluation's tasks in order; called within a flow."""
    arms = tuple(
        evaluation.evaluate(recipe, arm, None if arm in BASE_ARMS else adapter, store_uri) for arm in arms_of(recipe)
    )
    reports, guided_base = split_arms([arm.record for arm in arms])
    return Evaluation(arms=arms, comparison=evaluation.compare(recipe, reports, guided_base, adapter, store_uri))


@flow(name="softalign-evaluate", flow_run_name="evaluate-{recipe}", persist_result=False)
def evaluate(recipe: str, overrides: Sequence[str] = (), store: str = DEFAULT_STORE) -> FlowSummary:
    """Generate and score the images of the three arms and write the report.

    Args:
        recipe: a recipe's name or the path of a YAML file.
        overrides: ``section.field=value``, applied in order.
        store: folder or ``s3://`` URI where everything is published; the adapter must be there.
    """
    loaded, opened = load_recipe(recipe, overrides), Store(store)
    evaluated = evaluate_arms(loaded, published_adapter(loaded, opened), opened.uri)
    return summarize_stages(loaded.name, *evaluated.results)


if __name__ == "__main__":
    sys.exit(run_command(evaluate))
