"""A sweep over guidance: what each arm reaches at each value, and what is left of a gain at each arm's best one.

An adapter that only acts as more guidance is worth nothing: the base at higher guidance has the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from softalign.artifacts import Arm, EvalReport, TagDifference
from softalign.artifacts.fronts import FrontPoint, GuidanceFronts, GuidanceGain
from softalign.artifacts.metrics import ArmDistances
from softalign.config.evaluation import EvalConfig
from softalign.errors import CompatibilityError
from softalign.evaluation.differences import Results, differences

_COUNTING = "counting"


class SweptArm(Protocol):
    """One arm at one guidance: its record and its results in the suite's order."""

    @property
    def report(self) -> EvalReport:
        """The record."""

    @property
    def results(self) -> Results:
        """The verdicts."""


def guidance_fronts(
    arms: Sequence[SweptArm], config: EvalConfig, distances: Sequence[ArmDistances] = ()
) -> GuidanceFronts:
    """Return what the arms of a sweep reach.

    Args:
        arms: those of every guidance, the arms' own included.
        config: of the comparison; its intervals' settings.
        distances: of the same arms from a reference, where they were measured.
    """
    arms = sorted(arms, key=lambda arm: arm.report.guidance_scale)
    base, adapter = (_best(arms, name) for name in ("base", "adapter"))
    frechet = {(one.arm, one.guidance_scale): one.found.frechet for one in distances}
    scored = [_point(arm.report, config, frechet) for arm in arms]
    return GuidanceFronts(
        points=tuple(_placed(point, [other for other in scored if other.arm == point.arm]) for point in scored),
        distance_name=next((name for name, _ in frechet.values()), ""),
        gains=tuple(
            GuidanceGain(
                arm=arm.report.arm,
                guidance_scale=arm.report.guidance_scale,
                overall=_overall(arm, _base_at(arms, arm.report.guidance_scale), config),
            )
            for arm in arms
            if arm.report.arm != "base"
        ),
        best_base=base.report.guidance_scale,
        best_adapter=adapter.report.guidance_scale,
        adapter_over_base_at_best=_overall(adapter, base, config),
    )


def check_sweep(reports: Sequence[EvalReport], config: EvalConfig) -> None:
    """Refuse a sweep that is not the configured one.

    Raises:
        CompatibilityError: arms or guidance are others.
    """
    found = {(report.arm, report.guidance_scale) for report in reports}
    if found != set(config.swept_arms) or len(found) != len(reports):
        raise CompatibilityError(
            "The reports of the sweep over guidance are of other arms or values.",
            expected=_listed(config.swept_arms),
            found=_listed(sorted(found)),
            where="evaluate.guidance_sweep",
            fix="evaluate them with the arms' configuration",
        )


def _listed(arms: Sequence[tuple[Arm, float]]) -> str:
    return ", ".join(f"{arm} at {guidance:g}" for arm, guidance in arms) or "none"


def _best(arms: Sequence[SweptArm], name: str) -> SweptArm:
    return max((arm for arm in arms if arm.report.arm == name), key=lambda arm: arm.report.overall_score)


def _base_at(arms: Sequence[SweptArm], guidance_scale: float) -> SweptArm:
    return next(arm for arm in arms if arm.report.arm == "base" and arm.report.guidance_scale == guidance_scale)


def _overall(candidate: SweptArm, reference: SweptArm, config: EvalConfig) -> TagDifference:
    return differences(candidate.results, reference.results, config)[-1]


def _counting(report: EvalReport) -> float | None:
    return next((tag.score for tag in report.tags if tag.tag == _COUNTING), None)


def _point(
    report: EvalReport, config: EvalConfig, frechet: Mapping[tuple[Arm, float], tuple[str, float]]
) -> FrontPoint:
    """Return an arm's point, on no front yet."""
    _, distance = frechet.get((report.arm, report.guidance_scale), ("", None))
    return FrontPoint(
        arm=report.arm,
        guidance_scale=report.guidance_scale,
        denoiser_calls_per_image=config.at_guidance(report.guidance_scale).denoiser_calls_per_image,
        overall_score=report.overall_score,
        overall_ci_low=report.overall_ci_low,
        overall_ci_high=report.overall_ci_high,
        counting=_counting(report),
        report_digest=report.digest,
        is_on_front=False,
        distance=distance,
    )


def _placed(point: FrontPoint, of_arm: Sequence[FrontPoint]) -> FrontPoint:
    """Return a point with which of its arm's fronts it is on."""
    update: dict[str, bool] = {"is_on_front": _is_best(point, of_arm, lambda one: one.counting or 0.0)}
    if point.distance is not None:
        update["is_on_distance_front"] = _is_best(point, of_arm, lambda one: -(one.distance or 0.0))
    return point.model_copy(update=update)


def _is_best(point: FrontPoint, others: Sequence[FrontPoint], second: Callable[[FrontPoint], float]) -> bool:
    """Return whether no other point is as good in both, the overall score and a second, and better in one."""
    mine = (point.overall_score, second(point))
    pairs = [(one.overall_score, second(one)) for one in others]
    return not any(pair != mine and pair[0] >= mine[0] and pair[1] >= mine[1] for pair in pairs)
