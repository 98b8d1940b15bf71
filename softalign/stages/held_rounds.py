"""Arms that a store has with another number of images of each prompt: they have the same images, more or fewer."""

from __future__ import annotations

from collections.abc import Iterable

from softalign.artifacts import EvalReport
from softalign.stages.requests import StageInputs, evaluate_request


def holding_report(given: StageInputs) -> EvalReport | None:
    """Return the published report of an arm with at least its rounds, the smallest there is; None: there is none.

    Raises:
        IntegrityError: a damaged record.
        StorageUnavailableError: the store did not answer.
    """
    evaluate = given.recipe.evaluate
    return _first(given, range(evaluate.num_rounds, evaluate.images_per_prompt + 1))


def lent_report(given: StageInputs) -> EvalReport | None:
    """Return the published report that an arm takes images from: one with more rounds, else that with the most.

    Without rounds an arm takes none, and everything is drawn in one go.

    Raises:
        IntegrityError: a damaged record.
        StorageUnavailableError: the store did not answer.
    """
    evaluate = given.recipe.evaluate
    if not evaluate.is_in_rounds:
        return None
    more = range(evaluate.num_rounds + 1, evaluate.images_per_prompt + 1)
    return _first(given, (*more, *range(evaluate.num_rounds - 1, 0, -1)))


def _first(given: StageInputs, rounds: Iterable[int]) -> EvalReport | None:
    request = evaluate_request(given)
    for number in rounds:
        evaluate = {**request.config["evaluate"], "images_per_prompt": number}
        asked = request.model_copy(update={"config": {**request.config, "evaluate": evaluate}})
        if (found := given.store.find(EvalReport, asked.key)) is not None:
            return found
    return None
