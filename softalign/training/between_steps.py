"""What happens between two steps: validation and sample images, on which training does not depend."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TextIO

from softalign.data.encoding.reader import EncodedBatch
from softalign.processes.stopping import StopRequest
from softalign.training.checkpoints import Progress
from softalign.training.metrics import ValidationRow, to_line
from softalign.training.run import Run, any_rank, is_over
from softalign.training.validation import validate
from softalign.training.validation_history import CHANCE_VALIDATIONS, ValidationHistory, chance_alarm

logger = logging.getLogger(__name__)


def evaluate_if_due(run: Run, progress: Progress, metrics: TextIO, stop: StopRequest) -> Progress:
    """Validate and draw samples where they are due and not done yet, and return the counters with that recorded.

    A stop that is asked for meanwhile leaves all of it to the next attempt: no row is written before the last of it.

    Raises:
        StopAskedError: a rank was asked to stop.
    """
    if progress.is_evaluated:
        return progress
    row = _validated(run, progress, stop)
    progress = progress.model_copy(update={"is_evaluated": True})
    if row is not None:
        progress = progress.model_copy(update={"validations": _shared_history(run, progress, row)})
    _sample_if_due(run, progress, stop)
    if row is not None:
        metrics.write(to_line(row.model_copy(update={"is_weight_at_chance": progress.validations.is_alarming})))
    return progress


def _validated(run: Run, progress: Progress, stop: StopRequest) -> ValidationRow | None:
    """Return a validation's row where one is due."""
    config = run.step_inputs.config
    every = config.validate_every_steps
    is_due = every > 0 and (progress.step % every == 0 or progress.step == config.num_steps)
    if not is_due or not run.val_batches:
        return None

    def watched() -> Iterator[EncodedBatch]:
        for batch in run.val_batches:
            run.watchdog.note_progress()
            any_rank(run, stop, False)
            yield batch

    return validate(run.step_inputs, watched(), step=progress.step, samples_seen=progress.samples_seen)


def _shared_history(run: Run, progress: Progress, row: ValidationRow) -> ValidationHistory:
    """Return the history with this row; rank 0 decides: ranks on unlike machines may differ in the last bits."""
    logger.info(
        "validation at step %d: accuracy %.3f (chance %.3f), loss %s",
        row.step,
        row.val_accuracy,
        row.val_chance,
        "not finite" if row.val_loss is None else f"{row.val_loss:.4g}",
    )
    history = progress.validations.after(row)
    if history.num_at_chance == CHANCE_VALIDATIONS:
        asked = f"{history.num_at_chance} validations"
        temperature = getattr(run.step_inputs.config.objective, "temperature", "")
        logger.warning("%s", chance_alarm(row.val_match_weight, row.val_chance, asked, temperature))
    shared = run.group.from_leader(history.model_dump_json().encode())
    return ValidationHistory.model_validate_json(shared)


def _sample_if_due(run: Run, progress: Progress, stop: StopRequest) -> None:
    """Draw samples on rank 0 where they are due; after each pass of it all ranks learn whether to stop."""
    every = run.step_inputs.config.sample_every_steps
    if every == 0 or not (progress.step % every == 0 or is_over(run, progress)):
        return

    def is_going_on(is_drawing: bool) -> bool:
        run.watchdog.note_progress()
        return any_rank(run, stop, is_drawing)

    if run.sheets is not None:
        run.sheets.draw(progress.step, on_pass=lambda: is_going_on(True))
    is_drawing = is_going_on(False)
    while is_drawing:  # another rank is
        is_drawing = is_going_on(False)
