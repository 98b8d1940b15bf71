"""The train stage: an encoded set and a frozen backbone in, an adapter out; resumable at any moment.

Work lies in the store's work folder until it is done: checkpoints, and ``metrics.jsonl`` up to the newest of them. A
resumed run gives the bytes of an undisturbed one: data order and noise depend on samples_seen alone, and the number of
CPU threads, on which sums depend, is kept in the checkpoint.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol, TextIO

import torch

from softalign import __version__
from softalign.adapter_io import AdapterConfig, Placement, save_adapter
from softalign.artifacts import Adapter, EncodedManifest, digest_of
from softalign.backbones.base import backbone_dtype, component_digest, load_pipeline, resolve_device
from softalign.backbones.unet import denoiser_of
from softalign.base_fingerprint import fingerprint_of
from softalign.checkpoints import Progress, exclusive, restore_newest, save_checkpoint
from softalign.config import BackboneConfig, Runtime, TrainConfig
from softalign.diagnostics import TrainRow, ValidationRow, keep_rows_up_to, to_line
from softalign.errors import PreemptedError, TrainingError
from softalign.loader import EncodedBatch, EncodedReader, require_encoders
from softalign.model_card import model_card
from softalign.progress import open_progress
from softalign.soft_tokens import SoftTokens
from softalign.storage import Store, write_atomically
from softalign.training_step import Stepper, initial_state, initial_tokens, train_step, validate

logger = logging.getLogger(__name__)

METRICS_NAME = "metrics.jsonl"
MAX_SKIPPED_STEPS = 10
"""A run with this many updates that are not finite is broken."""
MAX_VAL_IMAGES = 64


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


@dataclass
class StopRequest:
    """Whether SIGTERM came since ``listening`` began."""

    is_set: bool = field(default=False)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note SIGTERM instead of dying of it; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(_signal: int, _frame: FrameType | None) -> None:
            self.is_set = True

        previous = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)


def train(
    encoded: EncodedManifest,
    backbone: BackboneConfig,
    config: TrainConfig,
    runtime: Runtime,
    store: Store,
    key: str,
    name: str,
) -> Adapter:
    """Train soft tokens, or go on where an earlier attempt stopped, and publish the adapter.

    Args:
        encoded: latents and text states of this backbone.
        backbone: the frozen model.
        config: tokens, objective, optimiser, length.
        runtime: device, micro-batches, checkpoints.
        store: where the adapter is published.
        key: the stage key.
        name: the adapter's name.

    Raises:
        CompatibilityError: the encoded set was made with another VAE or text encoder.
        DataError: the encoded set is smaller than one batch.
        TrainingError: MAX_SKIPPED_STEPS updates were not finite.
        PreemptedError: SIGTERM came; a checkpoint was written.
    """
    folder = store.work_path("train", key)
    stop = StopRequest()
    with exclusive(folder), stop.listening():
        finished = store.find(Adapter, key)
        if finished is not None:  # by another process, while this one waited for the folder
            return finished
        device = resolve_device(runtime)
        pipeline = load_pipeline(backbone, device=device, dtype=backbone_dtype(device))
        require_encoders(
            encoded,
            vae_digest=component_digest(pipeline.vae),
            text_encoder_digest=component_digest(pipeline.text_encoder),
        )
        reader = EncodedReader(encoded, store, split="train", batch_size=config.batch_size, seed=config.seed)
        bos_D = torch.as_tensor(reader.empty_prompt_embeds_LD[0])
        state = initial_state(config, bos_D, device)
        denoiser = denoiser_of(pipeline, config.soft_tokens.blocks, state.live)
        run = Run(
            stepper=Stepper(config, denoiser, state, device, runtime.micro_batch_size),
            train_batches=reader,
            val_batches=_val_batches(encoded, config, store),
            folder=folder,
            run_digest=digest_of([key, config.digest, encoded.digest, backbone.digest]),
            runtime=runtime,
        )
        progress = run_steps(run, stop)
        denoiser.close()
        adapter_config = _adapter_config(encoded, backbone, config, progress, pipeline.unet, state.live)
        output = folder / "adapter"
        write_adapter(output, run, adapter_config, initial_tokens(config, bos_D), name)
        record = _record(encoded, output, adapter_config, state.live, key, name)
        published = store.publish(record, output)
    shutil.rmtree(folder, ignore_errors=True)
    return published


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
        open_progress(num_steps=config.num_steps, done_steps=progress.step) as report,
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


def _validate_if_due(run: Run, progress: Progress, metrics: TextIO) -> ValidationRow | None:
    config = run.stepper.config
    every = config.validate_every_steps
    is_due = every > 0 and (progress.step % every == 0 or progress.step == config.num_steps)
    if not is_due or not run.val_batches:
        return None
    row = validate(run.stepper, run.val_batches, step=progress.step, samples_seen=progress.samples_seen)
    metrics.write(to_line(row))
    logger.info(
        "validation at step %d: accuracy %.3f (chance %.3f), loss %.4g",
        row.step,
        row.val_accuracy,
        row.val_chance,
        row.val_loss,
    )
    return row


def write_adapter(folder: Path, run: Run, config: AdapterConfig, initial: SoftTokens, name: str) -> None:
    """Write the adapter folder anew: weights, configuration, card, metrics, and the step-0 adapter in ``initial/``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    final = save_adapter(folder, config, run.stepper.state.live, run.stepper.state.ema)
    at_start = config.model_copy(update={"num_steps": 0, "samples_seen": 0})
    save_adapter(folder / "initial", at_start, initial, initial)
    write_atomically(folder / "README.md", model_card(final, run.stepper.config, name).encode())
    shutil.copyfile(run.metrics_path, folder / METRICS_NAME)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    previous = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def _val_batches(encoded: EncodedManifest, config: TrainConfig, store: Store) -> list[EncodedBatch]:
    if config.validate_every_steps == 0:
        return []
    batch_size = min(config.batch_size, encoded.num_val_samples)
    if batch_size < 2:
        logger.warning("no validation: the held-out split has %d image(s)", encoded.num_val_samples)
        return []
    reader = EncodedReader(encoded, store, split="val", batch_size=batch_size, seed=0)
    num_batches = min(reader.num_samples, MAX_VAL_IMAGES) // batch_size
    return [reader.batch_at(index * batch_size) for index in range(num_batches)]


def _adapter_config(
    encoded: EncodedManifest,
    backbone: BackboneConfig,
    config: TrainConfig,
    progress: Progress,
    unet: torch.nn.Module,
    tokens: SoftTokens,
) -> AdapterConfig:
    soft = config.soft_tokens
    return AdapterConfig(
        base_model=backbone.model,
        base_model_revision=backbone.revision or "",
        family=backbone.family,
        placement=Placement(blocks=soft.blocks, position=soft.position),
        num_soft_tokens=soft.num_soft_tokens,
        num_banks=2 if tokens.num_banks == 2 else 1,
        width=tokens.width,
        timestep_bins=soft.num_timestep_bins,
        has_ema=True,
        objective=config.objective.name,
        num_steps=progress.step,
        samples_seen=progress.samples_seen,
        dataset_digest=_dataset_digest(encoded),
        library_version=__version__,
        weights_sha256="",
        base_fingerprint=fingerprint_of(unet),
    )


def _record(
    encoded: EncodedManifest, folder: Path, config: AdapterConfig, tokens: SoftTokens, key: str, name: str
) -> Adapter:
    from softalign.adapter_io import read_adapter_config

    written = read_adapter_config(folder)
    return Adapter(
        stage_key=key,
        parents=(encoded.digest,),
        name=name,
        base_model=config.base_model,
        base_model_revision=config.base_model_revision,
        backbone_digest=encoded.backbone_digest,
        family=config.family,
        objective=config.objective,
        num_parameters=sum(parameter.numel() for parameter in tokens.parameters()),
        num_steps=config.num_steps,
        samples_seen=config.samples_seen,
        weights_sha256=written.weights_sha256,
        dataset_digest=config.dataset_digest,
    )


def _dataset_digest(encoded: EncodedManifest) -> str:
    return encoded.parents[0] if encoded.parents else encoded.digest
