"""What a run's validations say together: which step is best, whether to stop, whether the rewards say nothing.

A pure function of the rows, kept in the checkpoints, so that a resumed run decides as an undisturbed one.
"""

from __future__ import annotations

from softalign.artifacts import Frozen
from softalign.training.metrics import ValidationRow

CHANCE_BAND = 0.05
"""A mean weight within this share of chance counts as being at chance (0.25: from 0.2375 to 0.2625)."""
CHANCE_VALIDATIONS = 3
"""As many validations in a row at chance raise the alarm: one alone can be there by accident."""


class ValidationHistory(Frozen):
    """What has to be remembered of the validations so far.

    Attributes:
        best_step: the step with the highest accuracy, of equal ones that with the largest margin, then the first.
        num_since_best: validations after the best one.
        num_at_chance: validations in a row, up to the last one, whose weight of the own caption was at chance.
    """

    best_step: int | None = None
    best_accuracy: float = 0.0
    best_margin: float | None = None
    num_since_best: int = 0
    num_at_chance: int = 0

    def after(self, row: ValidationRow) -> ValidationHistory:
        """Return the history that this row continues; a row whose loss is not finite is never the best."""
        at_chance = self.num_at_chance + 1 if is_at_chance(row.val_match_weight, row.val_chance) else 0
        if self._is_better(row):
            return ValidationHistory(
                best_step=row.step,
                best_accuracy=row.val_accuracy,
                best_margin=row.val_margin,
                num_at_chance=at_chance,
            )
        return self.model_copy(update={"num_since_best": self.num_since_best + 1, "num_at_chance": at_chance})

    @property
    def is_alarming(self) -> bool:
        """Whether the weights have been at chance for long: they carry no signal."""
        return self.num_at_chance >= CHANCE_VALIDATIONS

    def is_over(self, patience: int | None) -> bool:
        """Return whether ``patience`` validations went by without a better one; None: never."""
        return patience is not None and self.num_since_best >= patience

    def _is_better(self, row: ValidationRow) -> bool:
        if row.val_loss is None or row.val_margin is None:
            return False
        if self.best_step is None or self.best_margin is None:
            return True
        return (row.val_accuracy, row.val_margin) > (self.best_accuracy, self.best_margin)


def is_at_chance(weight: float | None, chance: float) -> bool:
    """Return whether the mean weight of the own captions tells them from the others no better than guessing."""
    return weight is not None and abs(weight - chance) <= CHANCE_BAND * chance


def chance_alarm(weight: float | None, chance: float, asked: str, temperature: float | str) -> str:
    """Return the alarm of weights at chance, as a sentence.

    Args:
        weight: the own captions' mean weight.
        chance: what it is when the rewards say nothing.
        asked: where or how often this was found.
        temperature: of the objective.
    """
    found = f"the weights of the own captions have been at chance ({weight:.3g} against {chance:.3g}) for {asked}: "
    if temperature == "calibrated":
        return found + "the temperature is calibrated, so the model itself does not tell these captions apart"
    return found + "the rewards carry no signal at this temperature; set train.objective.temperature=calibrated"
