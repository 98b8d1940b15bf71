"""What the stages of a recipe have published, as far as it is known: where the next stage takes its inputs from."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Self, cast

from softalign.artifacts import Arm, ArmReports, EvalReport, Record, Stage
from softalign.store.store import RecordT


def label_of(stage: Stage, arm: Arm | None = None, guidance_scale: float | None = None) -> str:
    """Return what one step is called in logs and plans: a stage's name, and of an evaluation its arm.

    Args:
        stage: the stage.
        arm: of an evaluation.
        guidance_scale: of a sweep's arm.
    """
    at = "" if guidance_scale is None else f" at guidance {guidance_scale:g}"
    return stage if arm is None else f"{stage} ({arm.replace('_', ' ')}{at})"


def stage_of(label: str) -> Stage:
    """Return the stage that a label names."""
    return cast(Stage, label.partition(" (")[0])


@dataclass(frozen=True, slots=True)
class Published:
    """Records of one recipe's steps in their order, each under its step's label."""

    labels: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()

    def plus(self, label: str, record: Record) -> Self:
        """Return these and one more."""
        return type(self)((*self.labels, label), (*self.records, record))

    def only(self, labels: Collection[str]) -> Self:
        """Return those of some labels."""
        kept = [(label, record) for label, record in zip(self.labels, self.records, strict=True) if label in labels]
        return type(self)(tuple(label for label, _ in kept), tuple(record for _, record in kept))

    def find(self, kind: type[RecordT], arm: Arm | None = None) -> RecordT | None:
        """Return the record of a kind, and of an arm where it is a report; None where it is not known."""
        label = label_of(kind.stage, arm)
        return cast(RecordT, self.records[self.labels.index(label)]) if label in self.labels else None

    def get(self, kind: type[RecordT], arm: Arm | None = None) -> RecordT:
        """Return the record of a kind that is known.

        Raises:
            LookupError: it is not.
        """
        record = self.find(kind, arm)
        if record is None:
            raise LookupError(f"no record of {label_of(kind.stage, arm)} among {', '.join(self.labels) or 'none'}")
        return record

    @property
    def eval_reports(self) -> tuple[EvalReport, ...]:
        """The arms' reports that are known, in order; those of a sweep are not among them."""
        return tuple(report for label, report in self._reports if label == label_of("evaluate", report.arm))

    @property
    def sweep_reports(self) -> tuple[EvalReport, ...]:
        """The reports of a sweep over guidance that are known, in order."""
        return tuple(report for label, report in self._reports if label != label_of("evaluate", report.arm))

    @property
    def _reports(self) -> Iterator[tuple[str, EvalReport]]:
        for label, record in zip(self.labels, self.records, strict=True):
            if isinstance(record, EvalReport):
                yield label, record

    @property
    def arm_reports(self) -> ArmReports:
        """The reports by name.

        Raises:
            MissingInputError: an arm that is compared has none.
        """
        return ArmReports.of({report.arm: report for report in self.eval_reports}, self.sweep_reports)
