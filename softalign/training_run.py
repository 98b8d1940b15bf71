"""The loop over updates: from the newest checkpoint to the last step, at any moment ready to be killed.

A resumed run gives the bytes of an undisturbed one: data order and noise depend on samples_seen alone, and the number
of CPU threads, on which sums depend, is kept in the checkpoint.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

import torch

from softalign.attempts import StopRequest
from softalign.checkpoints import Progress, restore_newest, save_checkpoint
from softalign.config import Runtime
from softalign.diagnostics import TrainRow, keep_rows_up_to, to_line
from softalign.errors import PreemptedError, TrainingError
from softalign.loader import EncodedBatch
from softalign.progress import ProgressLines
from softalign.training_step import Stepper, train_step, validate

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
MAX_SKIPPED_STEPS = 10
"""A run with this many updates that are not finite is broken."""


class BatchSource(Protocol):
    """Batches as a pure function of how many images were seen."""

    def batch_at(self, samples_seen: int) -> EncodedBatch:
        """Return the batch that follows ``samples_seen`` images."""


@dataclass(frozen=True)
class Run:
    """One training run: what a step needs, where its batches come from, and where its files lie."""

    stepper: Stepper
    train_batches: BatchSource
    val_batches: Sequence[EncodedBatch]
    folder: Path
    run_digest: str
    runtime: Runtime

    @property
    def checkpoints_path(self) -> Path:
        """Where checkpoints lie."""
        return self.folder / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        """Where the rows of finished steps lie."""
        return self.folder / METRICS_NAME


def run_steps(run: Run, stop: StopRequest) -> Progress:
    """Train from the newest checkpoint, or from the start, to the last step, and return the final counters.

    Raises:
        TrainingError: MAX_SKIPPED_STEPS updates were not finite.
        PreemptedError: a stop was asked for; a checkpoint was written.
    """
    config, runtime = run.stepper.config, run.runtime
    run.checkpoints_path.mkdir(parents=True, exist_ok=True)
    restored = restore_newest(run.checkpoints_path, run.stepper.state, run.run_digest)
    progress = restored or Progress(
        step=0, samples_seen=0, num_skipped=0, num_threads=runtime.num_workers, run_digest=run.run_digest
    )
    keep_rows_up_to(run.metrics_path, progress.step if restored else -1)
    if restored:
        logger.info("resuming at step %d", progress.step)
    with (
        _threads(progress.num_threads),
        run.metrics_path.open("a", encoding="utf-8", buffering=1) as metrics,
        ProgressLines(config.num_steps, progress.step) as report,
    ):
        if restored is None:
            _validate_if_due(run, progress, metrics)
        while progress.step < config.num_steps:
            progress, row = _one_step(run, progress, metrics)
            report.update(row)
            is_last = progress.step == config.num_steps
            if is_last or stop.is_set or progress.step % runtime.checkpoint_every_steps == 0:
                os.fsync(metrics.fileno())
                save_checkpoint(run.checkpoints_path, run.stepper.state, progress, keep=runtime.keep_checkpoints)
            if stop.is_set and not is_last:
                raise PreemptedError(
                    f"Training was stopped at step {progress.step} after a checkpoint.",
                    where=str(run.checkpoints_path),
                    fix="run again to continue there",
                )
    return progress


def _one_step(run: Run, progress: Progress, metrics: TextIO) -> tuple[Progress, TrainRow]:
    batch = run.train_batches.batch_at(progress.samples_seen)
    row = train_step(run.stepper, batch, step=progress.step, samples_seen=progress.samples_seen)
    metrics.write(to_line(row))
    advanced = progress.model_copy(
        update={
            "step": row.step,
            "samples_seen": row.samples_seen,
            "num_skipped": progress.num_skipped + int(row.is_skipped),
        }
    )
    if row.is_skipped:
        _note_skipped(advanced, batch)
    _validate_if_due(run, advanced, metrics)
    return advanced, row


def _note_skipped(progress: Progress, batch: EncodedBatch) -> None:
    keys = ", ".join(batch.keys)
    logger.warning("step %d was not finite and is skipped (%d so far): %s", progress.step, progress.num_skipped, keys)
    if progress.num_skipped >= MAX_SKIPPED_STEPS:
        raise TrainingError(
            f"{MAX_SKIPPED_STEPS} updates had a loss or gradient that is not finite.",
            expected="finite numbers",
            found=f"the last at step {progress.step}",
            where=f"batch {keys}",
            fix="look at these samples' latents; lower optimizer.learning_rate; on CUDA check the model's precision",
        )


def _validate_if_due(run: Run, progress: Progress, metrics: TextIO) -> None:
    config = run.stepper.config
    every = config.validate_every_steps
    is_due = every > 0 and (progress.step % every == 0 or progress.step == config.num_steps)
    if not is_due or not run.val_batches:
        return
    row = validate(run.stepper, run.val_batches, step=progress.step, samples_seen=progress.samples_seen)
    metrics.write(to_line(row))
    logger.info(
        "validation at step %d: accuracy %.3f (chance %.3f), loss %s",
        row.step,
        row.val_accuracy,
        row.val_chance,
        "not finite" if row.val_loss is None else f"{row.val_loss:.4g}",
    )


@contextmanager
def _threads(number: int) -> Iterator[None]:
    previous = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(previous)
