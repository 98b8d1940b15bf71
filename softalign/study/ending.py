"""What is said when a study is done."""

from __future__ import annotations

from pathlib import Path

from softalign.study.results import PAGE_FILENAME, STUDY_FILENAME, StudyResult, Verdict


def ending_text(result: StudyResult, folder: Path) -> str:
    """Return a study's verdicts in lines, and where page and result lie.

    Args:
        result: of the study.
        folder: where its files lie.
    """
    return "\n".join(
        [
            f"study {result.name}: {len(result.cells)} cells, {len(result.comparisons)} comparisons with controls",
            *(_line(one) for one in result.verdicts),
            f"page    {folder / PAGE_FILENAME}",
            f"result  {folder / STUDY_FILENAME}",
        ]
    )


def _line(one: Verdict) -> str:
    return (
        f"{one.name} {one.outcome:<12} {one.recipe}: {one.left} against {one.right}"
        f"{f' ({one.where})' if one.where else ''}: {100 * one.value:+.1f} points "
        f"[{100 * one.low:.1f}, {100 * one.high:.1f}], corrected p {one.p_adjusted:.3g}"
    )
