"""Whether a recipe can run here and now: what the stages refuse whatever happens, then what the world refuses today."""

from __future__ import annotations

import logging

from softalign.artifacts import EvalReport, Stage
from softalign.config.recipe import Recipe
from softalign.stages.champion import with_champion
from softalign.stages.checks import undetected
from softalign.stages.plan import open_steps, plan_recipe
from softalign.stages.preflight import check_chain
from softalign.stages.table import COMMANDS
from softalign.stages.world import obstacles
from softalign.store.store import Store

logger = logging.getLogger(__name__)


def check_ready(recipe: Recipe, store: Store, last: Stage = "register") -> None:
    """Refuse a recipe that could not run up to its last stage, before any stage has worked for it.

    Of what is published already nothing is asked: a finished recipe needs neither room nor rights. A detector that is
    not there yet is warned of: the images are drawn without.

    Args:
        recipe: the recipe.
        store: where it would publish.
        last: the last stage that is asked for.

    Raises:
        ConfigError: the recipe cannot run (``check_chain``), or the store refuses access.
        MissingInputError: a source, model or adapter to start from is not there, or the store's bucket is not.
        DataError: one of them cannot be used.
        RegistryError: the registry refuses this account.
        StorageUnavailableError: store or registry did not answer, or there is no room; a later try may succeed.
    """
    check_chain(recipe, store, last)
    wanted = COMMANDS[: COMMANDS.index(last) + 1]
    recipe = with_champion(recipe, store, wanted)
    still_open = [one for one in open_steps(plan_recipe(recipe, store), recipe) if one.step.row.asked_by in wanted]
    for error in obstacles(still_open, recipe, store).values():
        raise error
    if any(one.step.row.record is EvalReport for one in still_open) and (lack := undetected(recipe)) is not None:
        logger.warning("evaluate draws its images and stops then: %s (%s)", lack.what, lack.where)
