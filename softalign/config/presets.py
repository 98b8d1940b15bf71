"""The numbers of the AGSM paper and of its released code, where they differ from each other or from this library's.

Sources: AGSM, arXiv 2605.30038, its tables and its released scripts. The Plackett-Luce exponent: the paper has the
squared norm, a sum over (C, H, W), with A~(t) = 1; the code the mean divided by 0.1. The joint blocks of SD3: the
paper's "upper" ones, read as the last, or the code's first. The learning rate: cosine warm restarts down to 1e-5; the
code's schedule advances once per validation and restarts after ten, the paper speaks of restarts alone; ours advances
with every step, in both. psi- on the unconditional branch is in the code's SDXL sampler alone.

Not offered are two accidents of the code: an average (EMA) that starts from its own random draw (ours is a copy of the
live tokens, always), and a learning rate that stands still between validations. One timestep and one noise for all
pairs (``train.noise_sharing: shared``) is both, and the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from softalign.artifacts import Family
from softalign.config.families import Defaults

Preset = Literal["paper", "code"]
RESTART_PERIOD_STEPS = 1000
"""Steps between two restarts: ten validations of this library's default interval."""


@dataclass(frozen=True, slots=True)
class Validations:
    """A number of steps: so many intervals of ``train.validate_every_steps``; left open where that is 0."""

    number: int


PRESETS: dict[Preset, Defaults] = {
    "paper": {
        "train.objective.reward_reduction": "sum",
        "train.objective.temperature": 1.0,
        "train.soft_tokens.layers": "last",
        "train.optimizer.schedule": "cosine_restarts",
        "train.optimizer.min_learning_rate": 1e-5,
        "train.optimizer.restart_period_steps": RESTART_PERIOD_STEPS,
    },
    "code": {
        "train.objective.reward_reduction": "mean",
        "train.objective.temperature": 0.1,
        "train.soft_tokens.layers": "first",
        "train.optimizer.schedule": "cosine_restarts",
        "train.optimizer.min_learning_rate": 1e-5,
        "train.optimizer.restart_period_steps": Validations(10),
    },
}
PRESETS_BY_FAMILY: dict[tuple[Preset, Family], Defaults] = {
    ("code", "sdxl"): {"train.objective.gamma_negative": 0.1, "evaluate.unconditional_bank": "negative"},
}
NO_EFFECT: dict[str, dict[str, Any]] = {
    "train.objective.reward_reduction": {"train.objective.temperature": "calibrated"},
    "evaluate.unconditional_bank": {"train.objective.banks": "shared", "evaluate.guidance_scale": 1.0},
}
"""Defaults that are left out where one of these other fields has this value: they would change nothing there."""
BELONGS_TO: dict[str, str] = {
    "train.optimizer.min_learning_rate": "train.optimizer.schedule",
    "train.optimizer.restart_period_steps": "train.optimizer.schedule",
}
"""Defaults that come with another one: where the recipe says that itself, they are left out too."""
