"""Hypotheses of a study as data: written into its file before it is run, so that what is tested is not chosen after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import Count

CONTROLS = ("base", "untrained")
"""What every cell is compared with, beside the objective that sees no negatives."""
Measure = Literal["difference", "at_equal_adherence", "dominates", "change"]
Direction = Literal["greater", "less", "two_sided"]
Ratio = Annotated[float, Field(gt=-1.0, lt=1.0)]


def repeats(values: Sequence[object]) -> bool:
    """Return whether a list of JSON's values has one of them twice."""
    return len({json.dumps(value, sort_keys=True) for value in values}) < len(values)


class Hypothesis(Frozen):
    """One statement and its test; each of the study's recipes is one case of it."""

    name: Annotated[str, Field(min_length=1, max_length=20)] = Field(description="a short name, such as H1")
    statement: Annotated[str, Field(min_length=1)] = Field(description="what is claimed, in a sentence")
    measure: Measure = Field(
        "difference",
        description="difference: left - right at equal guidance, its mean over `guidance`; at_equal_adherence: the "
        "same where right's front over guidance reaches left's adherence; dominates: more adherence, `tags` not lower "
        "by more than `margin`, no more denoiser calls, at one pair of guidances; change: left's gain from one length "
        "to another minus right's",
    )
    left: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="arms; of several the one that the selection chose"
    )
    right: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="arms, base or untrained; the statement must hold against each"
    )
    tags: Annotated[tuple[str, ...], Field(min_length=1)] = Field(description="whose mean score is compared")
    guidance: Annotated[tuple[float, ...], Field(min_length=1)] = Field(description="at which left is looked at")
    against_guidance: tuple[float, ...] = Field((), description="of dominates: at which right is looked at")
    num_steps: tuple[Count, Count] | None = Field(None, description="of change: from which length to which")
    test: Direction = Field("greater", description="what left - right must be to show the statement")
    threshold: Ratio = Field(0.0, description="what it must be greater or less than, a ratio: 0.05 is 5 points")
    margin: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="of dominates: how much `tags` may fall, a ratio: 0.03 is 3 points"
    )

    @model_validator(mode="after")
    def _check_lists(self) -> Self:
        for name in ("left", "right", "tags", "guidance", "against_guidance"):
            if repeats(getattr(self, name)):
                raise ValueError(f"{name} names one twice")
        if both := {*self.left} & {*self.right}:
            raise ValueError(f"{', '.join(sorted(both))} is on both sides: nothing is compared with itself")
        return self

    @model_validator(mode="after")
    def _check_measure(self) -> Self:
        if (self.measure == "change") != (self.num_steps is not None):
            raise ValueError("num_steps belongs to the measure change, which needs it")
        if (self.measure == "dominates") != bool(self.against_guidance):
            raise ValueError("against_guidance belongs to the measure dominates, which needs it")
        if self.measure == "dominates" and min(self.guidance) > 1.0 == max(self.against_guidance):
            raise ValueError(
                "left above guidance 1 has more denoiser calls than right at 1: there is nothing to look at"
            )
        if self.measure != "dominates" and self.margin:
            raise ValueError("margin has no effect without the measure dominates")
        if self.measure == "dominates" and (self.test != "greater" or self.threshold):
            raise ValueError("test and threshold have no effect with the measure dominates")
        if self.test == "two_sided" and self.threshold:
            raise ValueError("threshold has no effect with a two-sided test, which is against 0")
        if self.num_steps is not None and self.num_steps[0] >= self.num_steps[1]:
            raise ValueError("num_steps names the earlier length first")
        return self
