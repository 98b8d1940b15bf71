"""Learning rates as a function of the step alone: warm-up, then one of three shapes."""

from __future__ import annotations

import math

from softalign.config.optimizer import OptimizerConfig


def learning_rate_at(settings: OptimizerConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of the update that follows ``step`` updates.

    After a linear warm-up: ``constant``; ``cosine``, from the peak to ``min_learning_rate`` at the last step; or
    ``cosine_restarts``, the same fall every ``restart_period_steps`` (SGDR, arXiv 1608.03983, eq. 5, equal periods).

    Args:
        settings: peak, warm-up, shape, floor, period.
        step: updates before this one.
        num_steps: updates of the whole run.
    """
    if step < settings.num_warmup_steps:
        return settings.learning_rate * (step + 1) / settings.num_warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = step - settings.num_warmup_steps
    if settings.schedule == "cosine":
        period = max(1, num_steps - settings.num_warmup_steps)
    else:
        period = settings.restart_period_steps
    floor = settings.min_learning_rate
    share = (done % period) / period
    return floor + (settings.learning_rate - floor) * 0.5 * (1.0 + math.cos(math.pi * share))
