"""What of a study goes into the registry."""

from __future__ import annotations

from pathlib import Path

from softalign.registry import CellFacts, StudyFacts
from softalign.study.results import PAGE_FILENAME, STUDY_FILENAME, CellResult, StudyResult, Verdict


def facts_of(result: StudyResult, folder: Path) -> StudyFacts:
    """Return what the registry keeps of a study.

    Args:
        result: of the study.
        folder: where its files lie.
    """
    return StudyFacts(
        name=result.name,
        digest=result.study_digest,
        about=result.about,
        metrics={f"{one.name}/{one.recipe}/{name}": value for one in result.verdicts for name, value in _numbers(one)},
        files=(folder / STUDY_FILENAME, folder / PAGE_FILENAME),
        cells=tuple(_cell(one) for one in result.cells),
    )


def _numbers(one: Verdict) -> tuple[tuple[str, float], ...]:
    return tuple((name, getattr(one, name)) for name in ("value", "p_adjusted"))


def _cell(cell: CellResult) -> CellFacts:
    scored = [one for one in cell.arms if one.arm == "adapter"]
    metrics = {f"guidance_{one.guidance_scale:g}/overall": one.overall_score for one in scored}
    metrics |= {f"guidance_{one.guidance_scale:g}/{tag}": score for one in scored for tag, score in one.tags.items()}
    return CellFacts(
        name=f"{cell.recipe} {cell.arm} seed {cell.seed}, {cell.num_steps} steps, {cell.scored_on}",
        parameters={
            "recipe": cell.recipe,
            "arm": cell.arm,
            "seed": str(cell.seed),
            "num_steps": str(cell.num_steps),
            "scored_on": cell.scored_on,
        },
        metrics=metrics,
        adapter_digest=cell.adapter_digest,
        train_key=cell.train_key,
    )
