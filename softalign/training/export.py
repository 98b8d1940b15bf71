"""The adapter's folder and record, written from a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

from softalign.adapters.card import model_card
from softalign.adapters.files import AdapterConfig, placement_of, save_adapter
from softalign.artifacts import Adapter, EncodedManifest
from softalign.config.backbone import BackboneConfig
from softalign.config.training import TrainConfig
from softalign.data.captions.edit_shares import edit_shares, edits_in
from softalign.method.soft_tokens import SoftTokens
from softalign.store.adapter_files import CARD_FILENAME, INITIAL_FOLDER, METRICS_FILENAME, TRAIN_CONFIG_FILENAME
from softalign.store.files import write_atomically
from softalign.store.metrics_log import read_metrics
from softalign.training.checkpoints import Progress
from softalign.training.frozen_model import ModelIdentity
from softalign.training.run import Run
from softalign.training.run_files import SAMPLES_FOLDER
from softalign.version import __version__


def write_adapter(
    folder: Path,
    run: Run,
    config: AdapterConfig,
    initial: SoftTokens,
    name: str,
    encoded: EncodedManifest | None = None,
) -> AdapterConfig:
    """Write the adapter folder anew: weights, configurations, card, metrics, sample images if the run drew some.

    The step-0 adapter goes to ``initial/``.

    Returns the configuration with the weights' sha256.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    final = save_adapter(folder, config, run.step_inputs.state.live, run.step_inputs.state.ema)
    at_start = config.model_copy(update={"num_steps": 0, "samples_seen": 0})
    save_adapter(folder / INITIAL_FOLDER, at_start, initial, initial)
    settings = run.step_inputs.config
    edits = edit_shares(edits_in(read_metrics(run.metrics_path)))
    write_atomically(folder / CARD_FILENAME, model_card(final, name, settings, encoded, edits).encode())
    asked = settings.model_dump_json(indent=1, exclude=settings.unasked)
    write_atomically(folder / TRAIN_CONFIG_FILENAME, asked.encode() + b"\n")
    shutil.copyfile(run.metrics_path, folder / METRICS_FILENAME)
    if run.sheets is not None:
        unfinished = shutil.ignore_patterns(".*")  # what a killed attempt was writing
        shutil.copytree(run.files.samples_path, folder / SAMPLES_FOLDER, ignore=unfinished)
    return final


def adapter_config_of(
    encoded: EncodedManifest,
    backbone: BackboneConfig,
    config: TrainConfig,
    progress: Progress,
    identity: ModelIdentity,
    tokens: SoftTokens,
) -> AdapterConfig:
    """Return the configuration of an adapter at this step; the weights' sha256 is not known yet."""
    soft = config.soft_tokens
    return AdapterConfig(
        base_model=backbone.model,
        base_model_revision=backbone.revision or "",
        family=backbone.family,
        has_t5=backbone.has_t5,
        max_sequence_length=backbone.max_sequence_length,
        placement=placement_of(soft),
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
        base_fingerprint=identity.fingerprint,
    )


def record_of(
    encoded: EncodedManifest, config: AdapterConfig, identity: ModelIdentity, tokens: SoftTokens, key: str, name: str
) -> Adapter:
    """Return the record of a written adapter."""
    return Adapter(
        stage_key=key,
        parents=(encoded.digest,),
        name=name,
        base_model=config.base_model,
        base_model_revision=config.base_model_revision,
        backbone_digest=identity.backbone_digest,
        family=config.family,
        objective=config.objective,
        num_parameters=sum(parameter.numel() for parameter in tokens.parameters()),
        num_steps=config.num_steps,
        samples_seen=config.samples_seen,
        weights_sha256=config.weights_sha256,
        dataset_digest=config.dataset_digest,
    )


def _dataset_digest(encoded: EncodedManifest) -> str:
    return encoded.parents[0] if encoded.parents else encoded.digest
