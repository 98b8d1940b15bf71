"""The tasks that move the champion's alias."""

from __future__ import annotations

from softalign.registry import PromotionEvent, promote, rollback
from tasks.policies import stage_task


@stage_task("promote", run_name="promote {name}")
def promote_version(name: str, version: int | None, reason: str) -> PromotionEvent:
    """Make a version champion, in the registry of the environment."""
    return promote(name, version, reason)


@stage_task("rollback", run_name="roll back {name}")
def roll_back(name: str, reason: str) -> PromotionEvent:
    """Go back to the champion before, in the registry of the environment."""
    return rollback(name, reason)
