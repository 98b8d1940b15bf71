"""What earlier stages of a recipe published in a store: where a stage that runs alone takes its inputs from.

Each function raises MissingInputError, naming the stage to run, where one is missing.
"""

from __future__ import annotations

from softalign.artifacts import Adapter, ComparisonReport, DatasetManifest, EncodedManifest, EvalReport
from softalign.config import Recipe
from softalign.evaluated_tokens import Arm
from softalign.stages import compare_key, curate_key, encode_key, evaluate_key, require, train_key
from softalign.storage import Store


def published_dataset(recipe: Recipe, store: Store) -> DatasetManifest:
    """Return the recipe's curated dataset."""
    return require(DatasetManifest, curate_key(recipe), store)


def published_adapter(recipe: Recipe, store: Store) -> Adapter:
    """Return the recipe's trained adapter."""
    dataset = published_dataset(recipe, store)
    encoded = require(EncodedManifest, encode_key(recipe, dataset), store)
    return require(Adapter, train_key(recipe, encoded), store)


def published_reports(recipe: Recipe, adapter: Adapter, store: Store) -> tuple[EvalReport, EvalReport, EvalReport]:
    """Return the reports of the three arms: base, untrained tokens, adapter."""

    def report_of(arm: Arm) -> EvalReport:
        key = evaluate_key(recipe, arm, None if arm == "base" else adapter, store)
        return require(EvalReport, key, store)

    return report_of("base"), report_of("untrained"), report_of("adapter")


def published_comparison(
    recipe: Recipe, reports: tuple[EvalReport, EvalReport, EvalReport], store: Store
) -> ComparisonReport:
    """Return the comparison of the three arms."""
    return require(ComparisonReport, compare_key(recipe, reports), store)
