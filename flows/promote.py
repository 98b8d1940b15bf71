"""A version made champion by a person's decision, or the champion before given its place back."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from softalign.registry import PromotionEvent
from tasks.promotion import promote_version, roll_back

NameParameter = Annotated[str, Field(title="Name", description="of the registered model")]
VersionParameter = Annotated[int | None, Field(title="Version", description="its number; empty: the challenger")]
RollbackParameter = Annotated[bool, Field(title="Roll back", description="go back to the champion before instead")]
ReasonParameter = Annotated[str, Field(title="Reason", description="kept in the history", min_length=1)]


@flow(name="softalign-promote", flow_run_name="promote-{name}", persist_result=False)
def promote(
    name: NameParameter,
    version: VersionParameter = None,
    is_rollback: RollbackParameter = False,
    reason: ReasonParameter = "promoted by hand",
) -> PromotionEvent:
    """Make a version champion, or go back to the champion before; from a shell it is ``softalign promote``.

    Args:
        name: of the registered model; the registry is that of the worker's environment.
        version: its number; empty: the challenger.
        is_rollback: go back to the champion before instead.
        reason: kept in the history.
    """
    return roll_back(name, reason) if is_rollback else promote_version(name, version, reason)
