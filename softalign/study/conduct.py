"""A whole study: choose on one set, report on the other, and write what it came to."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from softalign.store.files import write_atomically
from softalign.store.store import Store
from softalign.study.analysis import analyse
from softalign.study.cells import open_cells
from softalign.study.choosing import choose
from softalign.study.matrix import StudyFile
from softalign.study.page import study_page
from softalign.study.results import PAGE_FILENAME, STUDY_FILENAME, StudyResult
from softalign.study.running import Pool, run_cells

logger = logging.getLogger(__name__)


def conduct(study: StudyFile, store: Store, folder: Path, pool: Pool, beside: Path) -> StudyResult:
    """Run what is missing of a study, and write ``study.json`` and ``study.html``; begun again it goes on.

    What another file of the same name came to stays beside them, as ``study-DIGEST.json`` and ``study-DIGEST.html``.

    Args:
        study: the file.
        store: where the cells are published.
        folder: where prompts, result and page are written.
        pool: where cells run.
        beside: the folder of the study's file.

    Raises:
        SoftAlignError: of the first cell that failed; what is finished is kept.
    """
    from softalign.registry import log_study
    from softalign.study.recording import facts_of

    cells = open_cells(study, store, folder, beside)
    outcomes = dict(run_cells(cells, cells.to_select(), pool, "selection"))
    choices = choose(study, outcomes)
    for one in choices:
        logger.info("%s, %s: chosen at %d steps (%.4f)", one.recipe, one.arm, one.num_steps, one.selection_score)
    chosen = {(one.recipe, one.arm): one.num_steps for one in choices}
    outcomes |= run_cells(cells, cells.to_report(chosen), pool, "report")
    result = analyse(cells, outcomes)
    _set_aside(folder, result.study_digest)
    write_atomically(folder / STUDY_FILENAME, result.model_dump_json(indent=1).encode() + b"\n")
    write_atomically(folder / PAGE_FILENAME, study_page(result).encode())
    log_study(facts_of(result, folder), cells.recipe_of(cells.to_select()[0]), store)
    return result


def _set_aside(folder: Path, digest: str) -> None:
    """Rename the result of another study in a folder by the beginning of its digest."""
    try:
        found = str(json.loads((folder / STUDY_FILENAME).read_bytes())["study_digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing, or no result
    if found == digest:
        return
    for name in (STUDY_FILENAME, PAGE_FILENAME):
        path = folder / name
        if path.is_file():
            kept = path.rename(path.with_stem(f"{path.stem}-{found[:12]}"))
            logger.info("what another file of this name came to is now %s", kept)
