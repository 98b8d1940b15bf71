"""What the world around a recipe would refuse, asked before the first stage runs: store, disk, registry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from softalign.config.recipe import Recipe
from softalign.errors import SoftAlignError, StorageUnavailableError
from softalign.stages.table import Step
from softalign.store.probing import free_bytes, probe, scratch_folder
from softalign.store.store import Store

SPARE_BYTES = 64 << 20
"""What a disk must have left besides what the stages are predicted to write: logs, databases, requests."""


@dataclass(frozen=True, slots=True)
class OpenStep:
    """A step that is not published yet, and about how many bytes it writes (None: it cannot be known)."""

    step: Step
    predicted_bytes: int | None


def obstacles(steps: Iterable[OpenStep], recipe: Recipe, store: Store) -> dict[str, SoftAlignError]:
    """Return what the world would refuse to the steps that are not published yet, by their labels.

    With nothing to run nothing is asked: a finished recipe needs no rights.
    """
    still_open = tuple(steps)
    if not still_open:
        return {}
    refused = _error_of_store(store)
    if refused is not None:
        return {one.step.label: refused for one in still_open}
    found = _without_room(still_open, store)
    for one in still_open:
        if one.step.row.name == "register" and (error := _error_of_registry(recipe, store)) is not None:
            found.setdefault(one.step.label, error)
    return found


def _error_of_store(store: Store) -> SoftAlignError | None:
    try:
        probe(store)
    except SoftAlignError as error:
        return error
    return None


def _error_of_registry(recipe: Recipe, store: Store) -> SoftAlignError | None:
    from softalign.registry import ask_registry, tracking_uri

    try:
        ask_registry(tracking_uri(recipe.runtime, store))
    except SoftAlignError as error:
        return error
    return None


def _without_room(steps: tuple[OpenStep, ...], store: Store) -> dict[str, SoftAlignError]:
    """Return an error for every step from the first on that the disk has no room for."""
    folder = scratch_folder(store)
    free = free_bytes(folder)
    found: dict[str, SoftAlignError] = {}
    needed = SPARE_BYTES
    for one in steps:
        needed += one.predicted_bytes or 0
        if needed > free:
            found[one.step.label] = StorageUnavailableError(
                "There is not enough room to write.",
                expected=f"about {needed / 1e6:,.0f} MB for the stages up to this one",
                found=f"{free / 1e6:,.0f} MB free",
                where=str(folder),
                fix="make room, or choose another place (--store; SOFTALIGN_CACHE for the work on a remote store)",
            )
    return found
