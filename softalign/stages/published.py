"""What earlier stages of a recipe published in a store: where a stage that runs alone takes its inputs from.

Each function raises MissingInputError, naming the stage to run, where one is missing.
"""

from __future__ import annotations

from softalign.artifacts import Adapter, Arm, ComparisonReport, DatasetManifest, EncodedManifest, EvalReport
from softalign.config import Recipe
from softalign.stages.keys import Reports, compare_key, curate_key, encode_key, evaluate_key, train_key
from softalign.stages.run import arms_of, require, split_arms
from softalign.store.store import Store


def published_dataset(recipe: Recipe, store: Store) -> DatasetManifest:
    """Return the recipe's curated dataset."""
    return require(DatasetManifest, curate_key(recipe), store)


def published_adapter(recipe: Recipe, store: Store) -> Adapter:
    """Return the recipe's trained adapter."""
    dataset = published_dataset(recipe, store)
    encoded = require(EncodedManifest, encode_key(recipe, dataset), store)
    return require(Adapter, train_key(recipe, encoded), store)


def published_evaluation(recipe: Recipe, adapter: Adapter, store: Store) -> tuple[Reports, ComparisonReport]:
    """Return the reports of the three arms (base, untrained tokens, adapter) and their comparison."""

    def report_of(arm: Arm) -> EvalReport:
        return require(EvalReport, evaluate_key(recipe, arm, adapter, store), store)

    reports, guided_base = split_arms([report_of(arm) for arm in arms_of(recipe)])
    return reports, require(ComparisonReport, compare_key(recipe, reports, guided_base), store)
