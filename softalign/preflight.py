"""What the last stages would refuse, refused before the first one runs: nobody trains for hours to learn it."""

from __future__ import annotations

from softalign.config import Recipe
from softalign.storage import Store


def check_evaluation(recipe: Recipe) -> None:
    """Refuse a recipe whose images nothing here can score.

    Raises:
        ConfigError: the suite has no detector.
    """
    from softalign.geneval.detectors import detector_for

    detector_for(recipe.evaluate)


def check_chain(recipe: Recipe, store: Store) -> None:
    """Refuse a recipe whose chain would stop at evaluation or registration.

    Raises:
        ConfigError: the suite has no detector, or a remote store has no registry to register in.
    """
    from softalign.registry import tracking_uri

    check_evaluation(recipe)
    tracking_uri(recipe.runtime, store)
