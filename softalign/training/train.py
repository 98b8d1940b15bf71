"""The train stage: an encoded set and a frozen backbone in, an adapter out; resumable at any moment.

Work lies in the store's work folder until it is done: checkpoints, and ``metrics.jsonl`` up to the newest of them.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from softalign.adapters.locating import resolved
from softalign.artifacts import Adapter, EncodedManifest, digest_of
from softalign.backbones.base import Backbone
from softalign.backbones.compiled_blocks import compile_blocks
from softalign.backbones.frozen_pipeline import resolve_device
from softalign.config.backbone import BackboneConfig
from softalign.config.runtime import Runtime
from softalign.config.training import NegativesConfig, TrainConfig
from softalign.data.encoding.reader import EncodedBatch, EncodedReader
from softalign.data.encoding.text_sources import OnlineTexts
from softalign.errors import DataError, SoftAlignError, TrainingError
from softalign.method.soft_tokens import SoftTokens
from softalign.processes.launch import require_work_for_all
from softalign.processes.locking import exclusive
from softalign.processes.stopping import StopRequest
from softalign.processes.watchdog import Watchdog
from softalign.store.store import Store
from softalign.training.checkpoint_copies import CheckpointUploads
from softalign.training.checkpoints import Progress, load_best
from softalign.training.export import adapter_config_of, record_of, write_adapter
from softalign.training.frozen_model import ModelIdentity, load_frozen, load_online_texts
from softalign.training.loop import run_steps
from softalign.training.micro_batches import MicroBatches
from softalign.training.pair_grid import Division
from softalign.training.process_group import ProcessGroup, join_group, leave_group
from softalign.training.run import Run
from softalign.training.sample_sheets import NUM_IMAGES, SampleSheets
from softalign.training.start import initial_state, initial_tokens, start_states, starting_tokens
from softalign.training.step import StepInputs

logger = logging.getLogger(__name__)

MAX_VAL_IMAGES = 64


@dataclass(frozen=True)
class TrainJob:
    """The arguments of ``train``, and the folder its work lies in until it is published."""

    encoded: EncodedManifest
    backbone: BackboneConfig
    config: TrainConfig
    runtime: Runtime
    store: Store
    key: str
    name: str
    folder: Path

    @cached_property
    def run_digest(self) -> str:
        """What every rank, and every checkpoint of the run, must have in common."""
        return digest_of([self.key, resolved(self.config).digest, self.encoded.digest, self.backbone.digest])


@dataclass(frozen=True)
class ReadyRun:
    """A run that can start, with what its export needs besides; ``identity`` is known to rank 0 alone."""

    run: Run
    start: SoftTokens
    identity: ModelIdentity | None


def train(
    encoded: EncodedManifest,
    backbone: BackboneConfig,
    config: TrainConfig,
    runtime: Runtime,
    store: Store,
    key: str,
    name: str,
    watchdog: Watchdog | None = None,
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
        watchdog: ends this process when a step hangs; None: nothing does.

    Raises:
        CompatibilityError: the encoded set was made with another VAE or text encoder, at another resolution or text
            length, or ``init_from`` does not fit.
        ConfigError: there are more processes than images in a batch, or than GPUs, or they disagree on what to train.
        DataError: the encoded set is smaller than one batch.
        TrainingError: MAX_SKIPPED_STEPS updates were not finite.
        PreemptedError: SIGTERM came between the first step and the last; a checkpoint was written.
    """
    job = TrainJob(encoded, backbone, config, runtime, store, key, name, store.work_path("train", key))
    group, device = _join(job)
    with exclusive(job.folder) if group.is_leader else nullcontext():
        adapter = _train_once(job, group, device, watchdog or Watchdog(None))
    leave_group(group)
    return adapter


def _join(job: TrainJob) -> tuple[ProcessGroup, torch.device]:
    """Wait for the other ranks; return the group and this rank's device."""
    group, device = join_group(resolve_device(job.runtime), job.runtime.hang_timeout_s)
    require_work_for_all(group.size, job.config.batch_size)
    group.require_same(job.run_digest, device)
    return group, device


def _train_once(job: TrainJob, group: ProcessGroup, device: torch.device, watchdog: Watchdog) -> Adapter:
    # another process may have finished it while this one waited for the folder
    adapter = _of_leader(group, job.store.find(Adapter, job.key) if group.is_leader else None)
    if adapter is None:
        ready = _prepare(job, group, device, watchdog)
        adapter = _of_leader(group, _export(job, ready, _run_steps(ready.run)))
    if adapter is None:
        raise TrainingError("Rank 0 published nothing.")
    return adapter


def _prepare(job: TrainJob, group: ProcessGroup, device: torch.device, watchdog: Watchdog) -> ReadyRun:
    """Load the frozen model, draw the step-0 tokens, attach them and open the data."""
    config = job.config
    frozen = load_frozen(job.backbone, job.encoded, device, group, has_vae=config.sample_every_steps > 0)
    online = load_online_texts(job.backbone, job.encoded, frozen.backbone, device)
    reader = _train_reader(job, online)
    states = start_states(config, frozen.backbone, reader.empty_text, group, job.folder)
    start = starting_tokens(config, job.backbone, initial_tokens(config, states, frozen.backbone.token_width))
    state = initial_state(config, start, device)
    denoiser = frozen.backbone.training_denoiser(config.soft_tokens, state.live)
    if job.runtime.compile:
        num_blocks = compile_blocks(denoiser.module)
        logger.info("torch.compile: %d blocks, each compiled when a step first meets it", num_blocks)
    run = Run(
        step_inputs=StepInputs(config, denoiser, state, device, Division(MicroBatches(None), group)),
        train_batches=reader,
        val_batches=_val_batches(job, online),
        folder=job.folder,
        run_digest=job.run_digest,
        runtime=job.runtime,
        watchdog=watchdog,
        uploads=uploads_of(job.runtime, job.store, job.key) if group.is_leader else None,
        sheets=_sheets(frozen.backbone, job, online) if group.is_leader else None,
    )
    return ReadyRun(run, start, frozen.identity)


def _run_steps(run: Run) -> Progress:
    """Train to the end, or until SIGTERM, and return the final counters."""
    stop = StopRequest()
    with stop.listening():
        progress = run_steps(run, stop)
    run.step_inputs.denoiser.close()
    return progress


def _export(job: TrainJob, ready: ReadyRun, progress: Progress) -> Adapter | None:
    """Publish the adapter and forget the run's checkpoints, on rank 0; return None on every other rank."""
    if ready.identity is None:
        return None
    run, state = ready.run, ready.run.step_inputs.state
    if job.config.export_step == "best":
        progress = load_best(run.checkpoints_path, state, progress)
    config = adapter_config_of(job.encoded, job.backbone, job.config, progress, ready.identity, state.live)
    config = write_adapter(job.folder / "adapter", run, config, ready.start, job.name, job.encoded)
    record = record_of(job.encoded, config, ready.identity, state.live, job.key, job.name)
    published = job.store.publish(record, job.folder / "adapter")
    _forget(run)
    return published


def _train_reader(job: TrainJob, online: OnlineTexts | None) -> EncodedReader:
    config = job.config
    reader = EncodedReader(
        job.encoded,
        job.store,
        split="train",
        batch_size=config.batch_size,
        seed=config.seed,
        negatives=config.negatives,
        online=online,
    )
    if config.objective.name != "score_matching":
        reader.require_negatives()
        reader.warn_of_missing_edits()
    return reader


def uploads_of(runtime: Runtime, store: Store, key: str) -> CheckpointUploads | None:
    """Return where a run's checkpoints are copied to; None where nothing says so and the store is a local folder.

    Raises:
        DataError: ``runtime.checkpoint_uri`` names an exported adapter.
    """
    if runtime.checkpoint_uri is None:
        return None if store.is_local else CheckpointUploads(f"{store.uri}/checkpoints/{key}")
    CheckpointUploads(runtime.checkpoint_uri).refuse_adapter()
    return CheckpointUploads(f"{runtime.checkpoint_uri.rstrip('/')}/{key}")


def _forget(run: Run) -> None:
    """Remove a finished run's checkpoints, here and where they were copied to."""
    if run.uploads is not None:
        try:
            run.uploads.remove()
        except SoftAlignError as error:
            logger.warning("the finished run's checkpoints are still at %s: %s", run.uploads.uri, error)
    shutil.rmtree(run.folder, ignore_errors=True)


def _of_leader(group: ProcessGroup, record: Adapter | None) -> Adapter | None:
    """Return rank 0's record on every rank."""
    data = group.from_leader(record.model_dump_json().encode() if record else b"")
    return Adapter.model_validate_json(data) if data else None


def _sheets(frozen: Backbone, job: TrainJob, online: OnlineTexts | None) -> SampleSheets | None:
    if job.config.sample_every_steps == 0:
        return None
    if job.encoded.num_val_samples == 0:
        logger.warning("no sample images: the held-out split is empty")
        return None
    reader = EncodedReader(job.encoded, job.store, split="val", batch_size=1, seed=0, online=online)
    captions = reader.first_captions(NUM_IMAGES)
    return SampleSheets(frozen, captions, job.folder, job.backbone.resolution_px, job.config.seed)


def _val_batches(job: TrainJob, online: OnlineTexts | None) -> list[EncodedBatch]:
    encoded, config = job.encoded, job.config
    if config.validate_every_steps == 0:
        return []
    batch_size = min(config.batch_size, encoded.num_val_samples)
    is_needed = config.export_step == "best" or config.early_stop_patience is not None
    if batch_size < 2 and is_needed:
        raise DataError(
            "The held-out split is too small to judge by.",
            expected="at least 2 images, for train.export_step=best and train.early_stop_patience",
            found=f"{encoded.num_val_samples}",
            where=encoded.uri,
            fix="set a larger curation.val_share",
        )
    if batch_size < 2:
        logger.warning("no validation: the held-out split has %d image(s)", encoded.num_val_samples)
        return []
    negatives = NegativesConfig(max_similarity=config.negatives.max_similarity)
    reader = EncodedReader(
        encoded, job.store, split="val", batch_size=batch_size, seed=0, negatives=negatives, online=online
    )
    num_batches = min(reader.num_samples, MAX_VAL_IMAGES) // batch_size
    return [reader.batch_at(index * batch_size) for index in range(num_batches)]
