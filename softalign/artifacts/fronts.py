"""What the arms of a sweep over guidance reach: ``fronts.json``."""

from __future__ import annotations

from softalign.artifacts.frozen import Frozen
from softalign.artifacts.paired import TagDifference
from softalign.artifacts.scores import Arm

FRONTS_FILENAME = "fronts.json"


class FrontPoint(Frozen):
    """One arm at one guidance; scores are ratios.

    Attributes:
        counting: the score of the tag ``counting``; None where the suite has no such tag.
        report_digest: of its record; there are too many for the comparison's ``parents``.
        is_on_front: no other guidance of the arm is as good in both, overall and ``counting``, and better in one.
        distance: the Fréchet distance of its images, where ``evaluate.distance`` asks for it; lower is nearer.
        is_on_distance_front: likewise of overall and ``distance``; None without one.
    """

    arm: Arm
    guidance_scale: float
    denoiser_calls_per_image: int
    overall_score: float
    overall_ci_low: float
    overall_ci_high: float
    counting: float | None
    is_on_front: bool
    report_digest: str
    distance: float | None = None
    is_on_distance_front: bool | None = None


class GuidanceGain(Frozen):
    """What an arm has over the base at the same guidance, overall and in pairs."""

    arm: Arm
    guidance_scale: float
    overall: TagDifference


class GuidanceFronts(Frozen):
    """A sweep: every arm at every guidance, its own included.

    Attributes:
        points: by guidance, in each the arms.
        gains: of the arms over the base, in the same order.
        best_base: the guidance at which the base scores highest; of equal ones the lowest.
        best_adapter: of the adapter.
        adapter_over_base_at_best: overall, in pairs: what is left of a gain that more guidance would bring as well.
            Both guidances are chosen by the scores that are compared, so its interval is a little too narrow.
        distance_name: what the points' distance is, ``fid`` or ``frechet_distance[MODEL]``; empty without one.
    """

    points: tuple[FrontPoint, ...]
    gains: tuple[GuidanceGain, ...]
    best_base: float
    best_adapter: float
    adapter_over_base_at_best: TagDifference
    distance_name: str = ""
