"""The loop over updates: from the newest checkpoint to the last step, at any moment ready to be killed.

A resumed run gives the bytes of an undisturbed one: data order and noise depend on samples_seen alone, and the number
of CPU threads, on which sums depend, is kept in the checkpoint.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TextIO

import torch

from softalign.attempts import StopRequest
from softalign.checkpoint_uploads import CheckpointUploads
from softalign.checkpoints import Progress, pack_checkpoint, restore_newest, save_checkpoint, unpack_checkpoint
from softalign.concurrency import map_ahead
from softalign.config import Runtime
from softalign.diagnostics import TrainRow, keep_rows_up_to, to_line
from softalign.errors import PreemptedError, TrainingError
from softalign.loader import EncodedBatch
from softalign.micro_batches import choose_size
from softalign.progress import ProgressLines
from softalign.sample_sheets import SampleSheets
from softalign.selection import CHANCE_VALIDATIONS, ValidationHistory
from softalign.team import Team
from softalign.training_step import Stepper, live_predictor, train_step
from softalign.validation import validate
from softalign.watchdog import Watchdog

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
WHOLE_GRID = 1 << 40
"""Stands for the whole grid where ranks compare the sizes of their micro-batches."""
MAX_SKIPPED_STEPS = 10
"""A run with this many updates that are not finite is broken."""


class BatchSource(Protocol):
    """Batches as a pure function of how many images were seen."""

    def batch_at(self, samples_seen: int) -> EncodedBatch:
        """Return the batch that follows ``samples_seen`` images."""


@dataclass(frozen=True)
class Run:
    """One training run: what a step needs, where its batches come from, and where its files lie.

    All ranks of a team run the same steps; rank 0 alone reads and writes the files.
    """

    stepper: Stepper
    train_batches: BatchSource
    val_batches: Sequence[EncodedBatch]
    folder: Path
    run_digest: str
    runtime: Runtime
    watchdog: Watchdog = field(default_factory=lambda: Watchdog(None))
    uploads: CheckpointUploads | None = None
    sheets: SampleSheets | None = None

    @property
    def checkpoints_path(self) -> Path:
        """Where checkpoints lie."""
        return self.folder / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        """Where the rows of finished steps lie."""
        return self.folder / METRICS_NAME

    @property
    def team(self) -> Team:
        """The ranks that run this together."""
        return self.stepper.division.team


def run_steps(run: Run, stop: StopRequest) -> Progress:
    """Train from the newest checkpoint, or from the start, to the end, and return the final counters.

    The end is the last step, or ``early_stop_patience`` validations without a better one.

    Raises:
        TrainingError: MAX_SKIPPED_STEPS updates were not finite.
        PreemptedError: a stop was asked for, of any rank; a checkpoint was written.
    """
    config = run.stepper.config
    restored = restore(run)
    progress = restored or Progress(
        step=0, samples_seen=0, num_skipped=0, num_threads=run.runtime.num_workers, run_digest=run.run_digest
    )
    with (
        _threads(progress.num_threads),
        run.watchdog.watching(),
        _metrics_file(run) as metrics,
        ProgressLines(config.num_steps, progress.step) as report,
        ExitStack() as stack,
    ):
        progress = settle_size(run, progress, is_resumed=restored is not None)
        if restored is None:
            progress = _validate_if_due(run, progress, metrics)
            _sample_if_due(run, progress)
            _checkpoint_if_due(run, progress, metrics, is_stopping=False)
        batches = stack.enter_context(closing(_batches_ahead(run, progress)))
        while not _is_over(run, progress):
            progress, row = _one_step(run, next(batches), progress, metrics)
            report.update(row)
            _sample_if_due(run, progress)
            run.watchdog.note_progress()
            progress = _with_agreed_size(run, progress)
            _checkpoint_if_due(run, progress, metrics, is_stopping=_is_stop_asked(run, stop))
    if progress.step < config.num_steps:
        logger.info("stopped early: %d validations without a better one", progress.validations.num_since_best)
    return progress


def _sample_if_due(run: Run, progress: Progress) -> None:
    every = run.stepper.config.sample_every_steps
    if run.sheets is not None and (progress.step % every == 0 or _is_over(run, progress)):
        run.sheets.draw(progress.step)


def restore(run: Run) -> Progress | None:
    """Load the newest sound checkpoint on every rank and return its counters; None: there is none, start.

    Rank 0 fetches what other machines uploaded, reads, and drops the rows after the checkpoint.
    """
    if not run.team.is_leader:
        received = run.team.from_leader(b"")
        return unpack_checkpoint(received, run.stepper.state) if received else None
    run.checkpoints_path.mkdir(parents=True, exist_ok=True)
    if run.uploads is not None:
        run.uploads.download(run.checkpoints_path, run.metrics_path)
    is_best_needed = run.stepper.config.select == "best"
    restored = restore_newest(run.checkpoints_path, run.stepper.state, run.run_digest, is_best_needed=is_best_needed)
    step = restored.step if restored else -1
    keep_rows_up_to(run.metrics_path, step)
    if run.uploads is not None:
        run.uploads.begin(step, run.metrics_path)
    if restored:
        logger.info("resuming at step %d", step)
    run.team.from_leader(pack_checkpoint(run.stepper.state, restored) if restored else b"")
    return restored


def settle_size(run: Run, progress: Progress, *, is_resumed: bool) -> Progress:
    """Decide how many pairs go through the denoiser at once: as configured, as before, or as free memory allows."""
    micro_batches, setting = run.stepper.division.micro_batches, run.runtime.micro_batch_size
    if setting != "auto":
        micro_batches.size = setting
    elif is_resumed:
        micro_batches.size = progress.micro_batch_size
    else:
        batch = run.train_batches.batch_at(0)
        micro_batches.size = choose_size(
            live_predictor(run.stepper, batch),
            sum(map(len, batch.candidates)),
            run.stepper.device,
            num_sharing=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
    return _with_agreed_size(run, progress)


def _is_stop_asked(run: Run, stop: StopRequest) -> bool:
    """Return whether any rank was asked to stop."""
    (asked,) = run.team.largest([int(stop.is_set)], run.stepper.device)
    return bool(asked)


def _with_agreed_size(run: Run, progress: Progress) -> Progress:
    """Take over the smallest micro-batch that a rank chose or fell back to, and note it in the counters."""
    micro_batches = run.stepper.division.micro_batches
    (negative,) = run.team.largest([-(micro_batches.size or WHOLE_GRID)], run.stepper.device)
    micro_batches.size = None if negative == -WHOLE_GRID else -negative
    return progress.model_copy(update={"micro_batch_size": micro_batches.size})


def _is_over(run: Run, progress: Progress) -> bool:
    config = run.stepper.config
    return progress.step == config.num_steps or progress.validations.is_over(config.early_stop_patience)


def _checkpoint_if_due(run: Run, progress: Progress, metrics: TextIO, *, is_stopping: bool) -> None:
    is_over = _is_over(run, progress)
    is_best = progress.validations.best_step == progress.step
    is_due = progress.step > 0 and progress.step % run.runtime.checkpoint_every_steps == 0
    if (is_over or is_best or is_due or is_stopping) and run.team.is_leader:
        os.fsync(metrics.fileno())
        save_checkpoint(run.checkpoints_path, run.stepper.state, progress, keep=run.runtime.keep_checkpoints)
        if run.uploads is not None:
            run.uploads.submit(run.checkpoints_path, run.metrics_path)
    if is_stopping and not is_over:
        if run.uploads is not None:
            run.uploads.close()
        run.team.from_leader(b"")  # nobody leaves before the checkpoint is written
        raise PreemptedError(
            f"Training was stopped at step {progress.step} after a checkpoint.",
            where=str(run.checkpoints_path),
            fix="run again to continue there",
        )


def _batches_ahead(run: Run, progress: Progress) -> Generator[EncodedBatch]:
    """Return the remaining steps' batches, read by a thread while earlier steps compute; for CUDA, pinned."""
    config, is_cuda = run.stepper.config, run.stepper.device.type == "cuda"

    def read(samples_seen: int) -> EncodedBatch:
        batch = run.train_batches.batch_at(samples_seen)
        return batch.pinned() if is_cuda else batch

    num_left = config.num_steps - progress.step
    places = range(progress.samples_seen, progress.samples_seen + num_left * config.batch_size, config.batch_size)
    return map_ahead(read, places, num_threads=1)


def _one_step(run: Run, batch: EncodedBatch, progress: Progress, metrics: TextIO) -> tuple[Progress, TrainRow]:
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
    return _validate_if_due(run, advanced, metrics), row


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


def _validate_if_due(run: Run, progress: Progress, metrics: TextIO) -> Progress:
    """Write a validation row where one is due, and return the counters that remember it."""
    config = run.stepper.config
    every = config.validate_every_steps
    is_due = every > 0 and (progress.step % every == 0 or progress.step == config.num_steps)
    if not is_due or not run.val_batches:
        return progress
    run.watchdog.note_progress()
    row = validate(run.stepper, run.val_batches, step=progress.step, samples_seen=progress.samples_seen)
    history = progress.validations.after(row)
    row = row.model_copy(update={"is_weight_at_chance": history.is_alarming})
    metrics.write(to_line(row))
    logger.info(
        "validation at step %d: accuracy %.3f (chance %.3f), loss %s",
        row.step,
        row.val_accuracy,
        row.val_chance,
        "not finite" if row.val_loss is None else f"{row.val_loss:.4g}",
    )
    if history.num_at_chance == CHANCE_VALIDATIONS:
        logger.warning(
            "the weights of the own captions have been at chance (%.3g against %.3g) for %d validations: the rewards "
            "carry no signal at this temperature; set train.objective.temperature_mode=calibrated",
            row.val_match_weight,
            row.val_chance,
            history.num_at_chance,
        )
    # rank 0 decides: ranks on unlike machines may differ in the last bits
    shared = run.team.from_leader(history.model_dump_json().encode())
    return progress.model_copy(update={"validations": ValidationHistory.model_validate_json(shared)})


@contextmanager
def _metrics_file(run: Run) -> Iterator[TextIO]:
    path = run.metrics_path if run.team.is_leader else Path(os.devnull)
    with path.open("a", encoding="utf-8", buffering=1) as file:
        yield file


@contextmanager
def _threads(number: int) -> Iterator[None]:
    previous = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(previous)
