"""The stages of a recipe as tasks of the present flow."""

from __future__ import annotations

from softalign.artifacts import Stage
from softalign.config import Recipe
from softalign.stages.chain import Walked, walk
from softalign.stages.published import Published
from softalign.stages.run import StageResult
from softalign.stages.table import Step
from softalign.store.store import Store
from tasks.preflight import check_before
from tasks.stages import run_task


def run_stages(recipe: Recipe, store: Store, *stages: Stage) -> Walked:
    """Run some stages in order, each as a task, after a look whether they can run here and now.

    What they take of earlier stages must be published.
    """

    def run(step: Step, published: Published) -> StageResult:
        return run_task(step, published, store)

    check_before(recipe, stages[-1], store)
    return walk(recipe, store, stages, run)
