"""What a stopped run has to go on from, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator

from softalign.config.recipe import Recipe
from softalign.stages.rounds import StepsAsDecided
from softalign.store.store import Store


def kept_line(recipe: Recipe, store: Store) -> str:
    """Return which stages are finished, how far the one under way is, and how to go on."""
    parts = list(_kept(recipe, store))
    if not parts:
        return f"stopped: no stage is finished yet in {store.uri}; the same command goes on"
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    verb = "are" if len(parts) > 1 else "is"
    return f"stopped: {listed} {verb} kept in {store.uri}; the same command goes on from there"


def _kept(recipe: Recipe, store: Store) -> Iterator[str]:
    steps = StepsAsDecided(recipe, store)
    for step in steps:
        given = step.inputs(steps.published, store)
        key = step.row.request(given).key
        record = step.row.published(key, store)
        if record is None:
            if unfinished := step.row.so_far(given, key):
                yield unfinished
            return
        yield step.label
        steps.note(step, record)
