"""What the stages or the world would refuse, refused before the first stage runs: nobody trains hours to learn it."""

from __future__ import annotations

from softalign.artifacts import Stage
from softalign.config.recipe import Recipe
from softalign.errors import SoftAlignError
from softalign.stages.table import COMMANDS, StageRow, row_of
from softalign.store.store import Store


def check_chain(recipe: Recipe, store: Store, last: Stage = "register") -> None:
    """Refuse a recipe whose chain would stop before it has done its last stage, saying how far it could go.

    Args:
        recipe: the recipe.
        store: where it would publish.
        last: the last stage that is asked for.

    Raises:
        ConfigError: the suite makes no sense, or a remote store has no registry to register in.
        MissingInputError: a source, a model of base or detector, or the adapter to start from is not there.
        DataError: one of them cannot be used.
        StorageUnavailableError: the place of one of them did not answer.
    """
    for stage in COMMANDS[: COMMANDS.index(last) + 1]:
        error = obstacle(row_of(stage), recipe, store)
        if error is not None:
            hints = [hint for hint in (error.fix, _possible(stage, error.fix)) if hint]
            raise type(error)(
                error.what, expected=error.expected, found=error.found, where=error.where, fix="; ".join(hints)
            )


def obstacle(row: StageRow, recipe: Recipe, store: Store) -> SoftAlignError | None:
    """Return what stands in the way of a stage whatever its inputs, and whatever is published already; None: nothing.

    Raises:
        StorageUnavailableError: the place of a source or of the adapter to start from did not answer.
    """
    try:
        row.check(recipe, store)
    except SoftAlignError as error:
        if error.is_retriable:
            raise
        return error
    return None


def _possible(stage: Stage, said: str) -> str:
    """Return what still works where a stage cannot run, unless that is said already."""
    place = COMMANDS.index(stage)
    if place == 0:
        return "`softalign plan RECIPE` shows every stage"
    command = f"`softalign {COMMANDS[place - 1]} RECIPE --through`"
    return f"{'' if command in said else f'what can run here: {command}; '}`softalign plan RECIPE` shows every stage"
