"""The loop over updates: from the newest checkpoint to the last step, at any moment ready to be killed.

A resumed run gives the bytes of an undisturbed one: data order and noise depend on samples_seen alone, and the number
of CPU threads, on which sums depend, is kept in the checkpoint.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn, TextIO

import torch

from softalign.data.encoding.reader import EncodedBatch
from softalign.errors import PreemptedError, TrainingError
from softalign.processes.reporter import Reporter
from softalign.processes.stopping import StopRequest
from softalign.store.read_ahead import ReadAhead
from softalign.training.between_steps import evaluate_if_due
from softalign.training.checkpoints import (
    Progress,
    checkpoint_path,
    pack_checkpoint,
    restore_newest,
    save_checkpoint,
    unpack_checkpoint,
)
from softalign.training.metrics import TrainRow, keep_rows_up_to, to_line
from softalign.training.micro_batches import choose_size
from softalign.training.progress import WatchedFigures
from softalign.training.run import Run, StopAskedError, any_rank, is_over
from softalign.training.step import live_predictor, train_step

logger = logging.getLogger(__name__)

WHOLE_GRID = 1 << 40
"""Stands for the whole grid where ranks compare the sizes of their micro-batches."""
POLL_INTERVAL_S = 0.5
"""How often a run that waits for a batch asks whether it is to stop."""
MAX_SKIPPED_STEPS = 10
"""A run with this many updates that are not finite is broken."""


def run_steps(run: Run, stop: StopRequest) -> Progress:
    """Train from the newest checkpoint, or from the start, to the end, and return the final counters.

    The end is the last step, or ``early_stop_patience`` validations without a better one.

    Raises:
        TrainingError: MAX_SKIPPED_STEPS updates were not finite.
        PreemptedError: a stop was asked for, of any rank; a checkpoint was written.
    """
    config = run.step_inputs.config
    restored = restore(run)
    progress, figures = restored or _start(run), WatchedFigures()
    with (
        _threads(progress.num_threads),
        run.watchdog.watching(),
        _metrics_file(run) as metrics,
        Reporter("train", "step", config.num_steps, num_reused=progress.step) as steps,
    ):
        progress = decide_size(run, progress, is_resumed=restored is not None)
        if restored is None:
            _save(run, progress, metrics)  # from now on the size is kept
        with closing(_batches_ahead(run, progress)) as batches:
            try:
                progress = evaluate_if_due(run, progress, metrics, stop)
                _checkpoint_if_due(run, progress, metrics)
                steps.begin()
                while not is_over(run, progress):
                    progress, row = _one_step(run, _next_batch(run, batches, stop), progress, metrics)
                    figures.add(row)
                    steps.reach(row.step, figures)
                    progress = _with_agreed_size(run, progress)
                    run.watchdog.note_progress()
                    progress = evaluate_if_due(run, progress, metrics, stop)
                    _checkpoint_if_due(run, progress, metrics)
            except StopAskedError:
                _leave(run, progress, metrics)
    if progress.step < config.num_steps:
        logger.info("stopped early: %d validations without a better one", progress.validations.num_since_best)
    return progress


def _start(run: Run) -> Progress:
    return Progress(
        step=0,
        samples_seen=0,
        num_skipped=0,
        num_threads=run.runtime.num_threads,
        run_digest=run.run_digest,
        is_evaluated=False,
    )


def restore(run: Run) -> Progress | None:
    """Load the newest sound checkpoint on every rank and return its counters, or None where there is none.

    Rank 0 fetches what other machines uploaded, reads, and drops the rows after the checkpoint.
    """
    if not run.group.is_leader:
        received = run.group.from_leader(b"")
        return unpack_checkpoint(received, run.step_inputs.state) if received else None
    run.checkpoints_path.mkdir(parents=True, exist_ok=True)
    if run.uploads is not None:
        run.uploads.download(run.files)
    is_best_needed = run.step_inputs.config.export_step == "best"
    restored = restore_newest(
        run.checkpoints_path, run.step_inputs.state, run.run_digest, is_best_needed=is_best_needed
    )
    step = restored.step if restored else -1
    keep_rows_up_to(run.metrics_path, step, has_validation=restored is None or restored.is_evaluated)
    if run.uploads is not None:
        run.uploads.begin(step, run.metrics_path)
    if restored:
        logger.info("resuming at step %d", step)
    run.group.from_leader(pack_checkpoint(run.step_inputs.state, restored) if restored else b"")
    return restored


def decide_size(run: Run, progress: Progress, *, is_resumed: bool) -> Progress:
    """Decide how many pairs go through the denoiser at once: as configured, as before, or as free memory allows.

    The last is at most half of a grid: a step takes as long as with the whole grid at once, at half its memory
    (measured: ``tests.bench.train_step --objectives``).
    """
    micro_batches, setting = run.step_inputs.division.micro_batches, run.runtime.micro_batch_size
    if setting != "auto":
        micro_batches.size = setting
    elif is_resumed:
        micro_batches.size = progress.micro_batch_size
    else:
        batch = run.train_batches.batch_at(0)
        micro_batches.size = choose_size(
            live_predictor(run.step_inputs, batch),
            math.ceil(sum(map(len, batch.candidates)) / 2),
            run.step_inputs.device,
            num_sharing=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
    return _with_agreed_size(run, progress)


def _with_agreed_size(run: Run, progress: Progress) -> Progress:
    """Use the smallest micro-batch that any rank chose or fell back to, and record it in the counters."""
    micro_batches = run.step_inputs.division.micro_batches
    (negative,) = run.group.largest([-(micro_batches.size or WHOLE_GRID)], run.step_inputs.device)
    micro_batches.size = None if negative == -WHOLE_GRID else -negative
    return progress.model_copy(update={"micro_batch_size": micro_batches.size})


def _save(run: Run, progress: Progress, metrics: TextIO, *, is_leaving: bool = False) -> None:
    """Write this step's checkpoint, unless it is there: no tensor changes between an update and the next."""
    if not run.group.is_leader:
        return
    if not checkpoint_path(run.checkpoints_path, progress.step).exists():
        os.fsync(metrics.fileno())
        save_checkpoint(run.checkpoints_path, run.step_inputs.state, progress, keep=run.runtime.keep_checkpoints)
    if run.uploads is not None:
        upload = run.uploads.finish if is_leaving else run.uploads.submit
        upload(progress.step, run.files)


def _checkpoint_if_due(run: Run, progress: Progress, metrics: TextIO) -> None:
    is_best = progress.validations.best_step == progress.step
    is_due = progress.step > 0 and progress.step % run.runtime.checkpoint_every_steps == 0
    if is_over(run, progress) or is_best or is_due:
        _save(run, progress, metrics)


def _leave(run: Run, progress: Progress, metrics: TextIO) -> NoReturn:
    _save(run, progress, metrics, is_leaving=True)
    run.group.from_leader(b"")  # no rank leaves before the checkpoint is written
    raise PreemptedError(
        f"Training was stopped at step {progress.step} after a checkpoint.",
        where=str(run.checkpoints_path),
        fix="run again to continue there",
    )


def _next_batch(run: Run, batches: ReadAhead[EncodedBatch], stop: StopRequest) -> EncodedBatch:
    """Return the next batch once every rank has its own.

    No rank waits alone: each comes to ``any_rank`` after POLL_INTERVAL_S at the latest, with or without its batch.

    Raises:
        StopAskedError: a rank was asked to stop, however long reading takes.
    """
    batch = None
    while True:
        batch = batches.get(POLL_INTERVAL_S) if batch is None else batch
        is_any_missing = any_rank(run, stop, batch is None)
        if batch is not None and not is_any_missing:
            return batch


def _batches_ahead(run: Run, progress: Progress) -> ReadAhead[EncodedBatch]:
    """Return the remaining steps' batches, read by a thread while earlier steps compute; for CUDA, pinned."""
    config, is_cuda = run.step_inputs.config, run.step_inputs.device.type == "cuda"

    def read(samples_seen: int) -> EncodedBatch:
        batch = run.train_batches.batch_at(samples_seen)
        return batch.pinned() if is_cuda else batch

    num_left = config.num_steps - progress.step
    places = range(progress.samples_seen, progress.samples_seen + num_left * config.batch_size, config.batch_size)
    return ReadAhead(read, places)


def _one_step(run: Run, batch: EncodedBatch, progress: Progress, metrics: TextIO) -> tuple[Progress, TrainRow]:
    row = train_step(run.step_inputs, batch, step=progress.step, samples_seen=progress.samples_seen)
    metrics.write(to_line(row))
    advanced = progress.model_copy(
        update={
            "step": row.step,
            "samples_seen": row.samples_seen,
            "num_skipped": progress.num_skipped + int(row.is_skipped),
            "is_evaluated": False,
        }
    )
    if row.is_skipped:
        _report_skipped(advanced, batch)
    return advanced, row


def _report_skipped(progress: Progress, batch: EncodedBatch) -> None:
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


@contextmanager
def _metrics_file(run: Run) -> Iterator[TextIO]:
    path = run.metrics_path if run.group.is_leader else Path(os.devnull)
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
