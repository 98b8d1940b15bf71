"""What two arms show in pairs, prompt by prompt under the same noise, and what such a difference says."""

from __future__ import annotations

from typing import Literal

from softalign.artifacts.frozen import Frozen
from softalign.artifacts.stopping import Stopping

DEFAULT_CONFIDENCE = 0.95
"""Of intervals whose records do not say theirs: the recipes' default."""
Standing = Literal["better", "worse", "unclear"]


class TagDifference(Frozen):
    """Paired difference (candidate - reference) of a tag or ``overall``, with a bootstrap interval over prompts."""

    tag: str
    difference: float
    ci_low: float
    ci_high: float


class TaskStatistics(Frozen):
    """What a paired difference of a tag or ``overall`` shows, beside its interval.

    Attributes:
        p_value: two-sided, by exchanging the arms of prompts.
        p_adjusted: corrected for the number of tags (Holm); None for ``overall``, which is one.
        wins: images that are right for the candidate and wrong for the reference.
        losses: the reverse.
        prompts_better: prompts of which the candidate has more images right.
        prompts_worse: the reverse.
        detectable: the smallest true difference that this many images show in four cases of five (ratio).
    """

    tag: str
    p_value: float
    p_adjusted: float | None
    wins: int
    losses: int
    prompts_better: int
    prompts_worse: int
    detectable: float

    @property
    def shown_p(self) -> float:
        """The p-value that is shown and judged by: a tag's is corrected for the number of tags."""
        return self.p_value if self.p_adjusted is None else self.p_adjusted


STATISTICS_FILENAME = "statistics.json"


class PairStatistics(Frozen):
    """What a comparison's pairs show, by tag and overall: ``statistics.json``.

    Attributes:
        planned_detectable: the smallest true overall difference that was to be found, as said before the first image.
        adapter_vs_champion: empty without a champion.
        stopping: of images that were drawn in rounds; else None, and not in the file. P-values are of the images that
            were drawn, and not corrected for the rounds.
        why_stopped: in words; empty likewise.
    """

    planned_detectable: float
    adapter_vs_base: tuple[TaskStatistics, ...]
    adapter_vs_untrained: tuple[TaskStatistics, ...]
    adapter_vs_champion: tuple[TaskStatistics, ...] = ()
    stopping: Stopping | None = None
    why_stopped: str = ""

    def to_json(self) -> str:
        """Return the stored form."""
        unset = {"stopping", "why_stopped"} if self.stopping is None else None
        return self.model_dump_json(indent=1, exclude=unset) + "\n"

    @property
    def over_base(self) -> PairEvidence | None:
        """What the record keeps of the pairs with the base, as ``over_untrained`` and ``over_champion``."""
        return _evidence(self.adapter_vs_base)

    @property
    def over_untrained(self) -> PairEvidence | None:
        """Of the pairs with untrained tokens."""
        return _evidence(self.adapter_vs_untrained)

    @property
    def over_champion(self) -> PairEvidence | None:
        """Of the pairs with the champion; None without it."""
        return _evidence(self.adapter_vs_champion)


class PairEvidence(Frozen):
    """The overall line of a pair's statistics, as the record keeps it (``TaskStatistics``)."""

    p_value: float
    wins: int
    losses: int
    detectable: float


def _evidence(tasks: tuple[TaskStatistics, ...]) -> PairEvidence | None:
    """Return the overall entry, which stands last."""
    return PairEvidence.model_validate(tasks[-1].model_dump(include=set(PairEvidence.model_fields))) if tasks else None


def standing(difference: TagDifference, p_value: float | None = None, confidence: float | None = None) -> Standing:
    """Return what a paired difference says.

    It is unclear where its interval includes zero, and where exchanging the arms of prompts gives as much by luck more
    often than the level allows: intervals of one or two prompts a tag have next to no width.

    Args:
        difference: with its interval.
        p_value: beside it (``TaskStatistics.shown_p``); None: the record has none.
        confidence: of the interval; None: the record does not say it.
    """
    level = 1.0 - (confidence or DEFAULT_CONFIDENCE)
    if (p_value is not None and p_value > level) or difference.ci_low <= 0.0 <= difference.ci_high:
        return "unclear"
    return "better" if difference.ci_low > 0.0 else "worse"
