"""Whether a recipe's images are still those that were curated, also under the same names and sizes."""

from __future__ import annotations

from softalign.config.recipe import Recipe
from softalign.processes.supervise import OnLine
from softalign.stages.published import Published
from softalign.stages.refresh import published_dataset
from softalign.stages.renewing import recheck_request
from softalign.stages.run import StageResult, run_renewal
from softalign.stages.table import steps_of
from softalign.store.store import Store


def recheck(recipe: Recipe, store: Store, on_line: OnLine) -> StageResult | None:
    """Read a recipe's images again and curate a newer version if some were replaced; None: all are what they were.

    Raises:
        MissingInputError: the recipe's dataset is not published.
        SoftAlignError: a source is not there, cannot be used, or does not answer.
    """
    step = next(step for step in steps_of(recipe) if step.row.name == "curate")
    given = step.inputs(Published(), store)
    again = recheck_request(given, published_dataset(recipe, store))
    return None if again is None else run_renewal(step, given, again, on_line)
