"""What a flow of one stage returns: which stages ran, which were reused, and where their outputs are."""

from __future__ import annotations

from collections.abc import Sequence

from softalign.artifacts import Frozen, Usage
from softalign.stages.run import StageResult


class StageOutcome(Frozen):
    """One stage of a finished flow; ``usage`` is what it cost when it ran, None where that is not known."""

    label: str
    is_reused: bool
    seconds: float
    digest: str
    uri: str
    usage: Usage | None = None


class FlowSummary(Frozen):
    """The stages of a finished flow, in order."""

    name: str
    stages: tuple[StageOutcome, ...]

    def to_text(self) -> str:
        """Return the summary for people, one line per stage."""
        return "\n".join(
            f"{stage.label:<22} {'reused' if stage.is_reused else f'{stage.seconds:.1f} s':>9}  {stage.uri}"
            for stage in self.stages
        )


def summarize_stages(name: str, results: Sequence[StageResult]) -> FlowSummary:
    """Return the summary of a recipe's stage results."""
    outcomes = (
        StageOutcome(
            label=result.label,
            is_reused=result.is_reused,
            seconds=result.seconds,
            digest=result.record.digest,
            uri=result.record.uri,
            usage=result.usage,
        )
        for result in results
    )
    return FlowSummary(name=name, stages=tuple(outcomes))
