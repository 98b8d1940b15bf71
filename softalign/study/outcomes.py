"""What a cell's stages published, and finding it again by its stage keys."""

from __future__ import annotations

from softalign.artifacts import Adapter, EvalReport, Frozen, Record
from softalign.errors import MissingInputError
from softalign.processes.supervise import OnLine
from softalign.stages.chain import Walked, walk
from softalign.stages.published import Published
from softalign.stages.run import StageResult, require, run_step
from softalign.stages.table import Step
from softalign.store.store import Store
from softalign.study.cells import CELL_STAGES, Cell, Cells
from softalign.study.jobs import CellJob


class CellOutcome(Frozen):
    """What a cell came to.

    Attributes:
        adapter: what was trained.
        reports: of base, untrained tokens and adapter at every guidance of its set.
        num_run: stages that were not there before.
    """

    adapter: Adapter
    reports: tuple[EvalReport, ...]
    num_run: int = 0

    def at(self, arm: str, guidance_scale: float) -> EvalReport:
        """Return one arm's report at one guidance."""
        return next(one for one in self.reports if one.arm == arm and one.guidance_scale == guidance_scale)


def published_outcome(cells: Cells, cell: Cell) -> CellOutcome | None:
    """Return what a cell came to, if all of it is published already; runs nothing."""

    def found(step: Step, published: Published) -> StageResult:
        record: Record = require(step, published, cells.store)
        return StageResult(step.label, record, is_reused=True, seconds=0.0)

    try:
        return _outcome(walk(cells.recipe_of(cell), cells.store, CELL_STAGES, found))
    except MissingInputError:
        return None


def run_cell(job: CellJob, on_line: OnLine) -> CellOutcome:
    """Run a cell's stages in this process, each that uses a model in a child of it; what is published is reused.

    Raises:
        SoftAlignError: a stage's; what it finished is kept.
    """
    store = Store(job.store)

    def run(step: Step, published: Published) -> StageResult:
        result = run_step(step, published, store, on_line)
        result.say(on_line)
        return result

    return _outcome(walk(job.recipe, store, CELL_STAGES, run))


def _outcome(walked: Walked) -> CellOutcome:
    published = walked.published
    return CellOutcome(
        adapter=published.get(Adapter),
        reports=(*published.eval_reports, *published.sweep_reports),
        num_run=sum(not result.is_reused for result in walked.results),
    )
