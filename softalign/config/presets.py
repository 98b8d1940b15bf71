"""The numbers of the papers and of their released code, where they differ and where they depend on the family.

Sources: AGSM, arXiv 2605.30038, its tables and its released scripts; SoftREPA, arXiv 2503.08250.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from softalign.config.families import Family

Preset = Literal["paper", "code"]
TemperatureMode = Literal["fixed", "calibrated"]
Defaults = Mapping[str, str | float]
"""Fields of a configuration and what they are where they were left unset."""
RESTART_VALIDATIONS = 10
"""Validations between two restarts of the papers' learning rate."""
RESTART_PERIOD_STEPS = 1000
"""As many steps as ten validations of this library's default interval."""
_MMDIT = ("sd3", "sd35")


def agsm_defaults(preset: Preset | None, family: Family | None, temperature_mode: TemperatureMode) -> Defaults:
    """Return the values of agsm's unset fields.

    The Plackett-Luce exponent: the paper has the squared norm, a sum over (C, H, W), with A~(t) = 1; the released code
    the mean divided by 0.1. Without a preset it is the code's.

    Args:
        preset: whose numbers; None: this library's.
        family: of the backbone; None: not known, then the numbers of SD1.5.
        temperature_mode: a calibrated temperature has a factor instead of a value, and makes the reduction irrelevant.
    """
    common: Defaults = {
        "weights": "plackett_luce",
        "banks": "dual",
        "gamma_positive": 1.0,
        "gamma_negative": _gamma_negative(preset, family),
        "temperature_mode": temperature_mode,
    }
    if temperature_mode == "calibrated":
        return {**common, "temperature_factor": 1.0}
    if preset == "paper":
        return {**common, "reward_reduction": "sum", "temperature": 1.0}
    return {**common, "reward_reduction": "mean", "temperature": 0.1}


def _gamma_negative(preset: Preset | None, family: Family | None) -> float:
    """Return g-: 0.1 on SD3; 1 on SD1.5 and, in the paper, on SDXL, whose released script has 0.1."""
    return 0.1 if family in _MMDIT or (family == "sdxl" and preset == "code") else 1.0


def softrepa_defaults(family: Family | None) -> Defaults:
    """Return the values of softrepa's unset fields: dweight is 10 on U-Nets and 0 on SD3, in paper and code."""
    return {"temperature": 0.07, "logit_scale": 4.0, "denoising_weight": 0.0 if family in _MMDIT else 10.0}


def unconditional_bank_default(preset: Preset | None, family: Family) -> Literal["positive", "negative"]:
    """Return which bank the unconditional branch sees: psi+, but psi- in the released code's SDXL sampler."""
    return "negative" if family == "sdxl" and preset == "code" else "positive"


def layers_default(preset: Preset) -> Literal["first", "last"]:
    """Return which joint blocks of SD3 have tokens: the paper's "upper" ones, read as the last, or the code's first."""
    return "last" if preset == "paper" else "first"


def schedule_defaults(preset: Preset, validate_every_steps: int) -> Defaults:
    """Return the learning-rate schedule of a preset: cosine warm restarts down to 1e-5.

    The released schedule advances once per validation and restarts after ten, so its period is ten validation intervals
    whatever they are; the paper speaks of restarts alone, so its period does not depend on how often is validated. Ours
    advances with every step, in both.

    Args:
        preset: paper or code.
        validate_every_steps: steps between validations; 0: never, then the code has the paper's period.
    """
    period = RESTART_VALIDATIONS * validate_every_steps if preset == "code" else 0
    return {
        "schedule": "cosine_restarts",
        "min_learning_rate": 1e-5,
        "restart_period_steps": period or RESTART_PERIOD_STEPS,
    }
