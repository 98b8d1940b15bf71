"""Which registered version stands beside the arms: looked up when a run begins, and fixed by number and content.

What is finished stays as it was compared: a rerun takes the champion of the comparison that was registered, so that it
does nothing, although the version may be champion itself by now.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from typing import Any

from softalign.artifacts import Stage
from softalign.config.evaluation import AFTER, WHEN_DECIDED
from softalign.config.recipe import Recipe
from softalign.errors import SoftAlignError
from softalign.stages.asked_before import published_requests
from softalign.stages.rounds import StepsAsDecided
from softalign.store.store import Store

logger = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"


def with_champion(recipe: Recipe, store: Store, stages: Collection[Stage]) -> Recipe:
    """Return a recipe with its champion looked up, or as it is where it names one.

    A champion that cannot be looked up, or is of another base model, is left out; the gate says so. One whose files
    cannot be fetched stops its arm: nobody is compared with what was changed. ``evaluate.champion: none`` goes without.

    Args:
        recipe: the recipe.
        store: where it publishes.
        stages: that are to run; where arms are not to be drawn, those that were drawn are taken.

    Raises:
        StorageUnavailableError: the store did not answer.
    """
    if recipe.evaluate.champion != AUTO:
        return recipe
    ways = [pinned(recipe, champion) for champion in _compared_with(recipe, store)]
    for stage in ("register", *(() if "evaluate" in stages else ("compare",))):
        for way in ways:
            if stage in _published(way, store):
                return way
    return pinned(recipe, _present(recipe, store))


def pinned(recipe: Recipe, champion: str) -> Recipe:
    """Return a recipe with its champion named."""
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"champion": champion})})


def _compared_with(recipe: Recipe, store: Store) -> Iterator[str]:
    """Yield the champions that adapters of such an evaluation were compared with in this store, newest first."""
    asked = _without_rounds(recipe.evaluate.asked())
    found = sorted(published_requests("compare", store), key=lambda one: -one[0])
    configs = [dict(request.config.get("evaluate", {})) for _, _, request in found]
    champions = [config.pop("champion", NONE) for config in configs if isinstance(config, dict)]
    asked_before = zip(champions, map(_without_rounds, configs), strict=True)
    yield from dict.fromkeys(champion for champion, config in asked_before if config == asked)


def _without_rounds(config: dict[str, Any]) -> dict[str, Any]:
    """Return what an evaluation is asked for, after whatever rounds it stopped."""
    return config | {"stop": WHEN_DECIDED} if str(config.get("stop")).startswith(AFTER) else config


def _published(recipe: Recipe, store: Store) -> set[Stage]:
    """Return which stages of a recipe's chain are published, up to the first that is not."""
    steps, found = StepsAsDecided(recipe, store), set[Stage]()
    for step in steps:
        try:
            record = step.row.published(step.request(steps.published, store).key, store)
        except SoftAlignError as error:  # of sources or models: who runs the stage says it
            if error.is_retriable:
                raise
            return found
        if record is None:
            return found
        steps.note(step, record)
        found.add(step.row.name)
    return found


def _present(recipe: Recipe, store: Store) -> str:
    """Return the registry's champion now, by number and content; ``none`` where there is none to draw."""
    from softalign.registry import pinned_champion, tracking_uri

    try:
        uri = tracking_uri(recipe.runtime, store)
        return pinned_champion(recipe.register_.name, recipe.backbone.model, uri) or NONE
    except SoftAlignError as error:
        logger.warning("Compared without the champion, which cannot be looked up: %s", error)
        return NONE
