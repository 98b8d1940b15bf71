"""The scores of an evaluation's arms, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from softalign.artifacts import Arm, EvalReport
from softalign.errors import MissingInputError


@dataclass(frozen=True, slots=True)
class ArmReports:
    """One report for each arm.

    Attributes:
        base: the base model's.
        untrained: the step-0 tokens'.
        adapter: the trained tokens'.
        guided_base: the base model's with guidance, a reference beside the arms; None: not asked for.
    """

    base: EvalReport
    untrained: EvalReport
    adapter: EvalReport
    guided_base: EvalReport | None = None

    @classmethod
    def of(cls, reports: Mapping[Arm, EvalReport]) -> Self:
        """Return the reports by their arms.

        Raises:
            MissingInputError: an arm that is compared has none.
        """
        missing = [arm for arm in ("base", "untrained", "adapter") if arm not in reports]
        if missing:
            raise MissingInputError(
                "An arm of the evaluation has no report.",
                expected="reports of base, untrained and adapter",
                found=f"no {' and no '.join(missing)}",
                fix="run `softalign evaluate RECIPE`",
            )
        return cls(
            base=reports["base"],
            untrained=reports["untrained"],
            adapter=reports["adapter"],
            guided_base=reports.get("guided_base"),
        )

    @property
    def compared(self) -> tuple[EvalReport, ...]:
        """Those that are compared in pairs, the references first and the adapter last."""
        return self.base, self.untrained, self.adapter

    @property
    def all(self) -> tuple[EvalReport, ...]:
        """Every report, the references outside of the comparison last."""
        return self.compared if self.guided_base is None else (*self.compared, self.guided_base)
