"""What the parts of a training run share: the run itself, and how its ranks stop together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from softalign.config.runtime import Runtime
from softalign.data.encoding.reader import EncodedBatch
from softalign.processes.stopping import StopRequest
from softalign.processes.watchdog import Watchdog
from softalign.store.adapter_files import METRICS_FILENAME
from softalign.training.checkpoint_copies import CheckpointUploads
from softalign.training.checkpoints import Progress
from softalign.training.process_group import ProcessGroup
from softalign.training.run_files import SAMPLES_FOLDER, RunFiles
from softalign.training.sample_sheets import SampleSheets
from softalign.training.step import StepInputs


class BatchSource(Protocol):
    """Batches as a pure function of how many images were seen."""

    def batch_at(self, samples_seen: int) -> EncodedBatch:
        """Return the batch that follows ``samples_seen`` images."""


@dataclass(frozen=True)
class Run:
    """One training run: what a step needs, where its batches come from, and where its files lie.

    All ranks of a group run the same steps; rank 0 alone reads and writes the files.
    """

    step_inputs: StepInputs
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
        return self.folder / METRICS_FILENAME

    @property
    def files(self) -> RunFiles:
        """Where all of it lies that another machine needs."""
        return RunFiles(self.checkpoints_path, self.metrics_path, self.folder / SAMPLES_FOLDER)

    @property
    def group(self) -> ProcessGroup:
        """The ranks that run this together."""
        return self.step_inputs.division.group


class StopAskedError(Exception):
    """A rank was asked to stop; all ranks learn it at the same place."""


def is_over(run: Run, progress: Progress) -> bool:
    """Return whether this was the last step: of all, or for lack of better validations."""
    config = run.step_inputs.config
    return progress.step == config.num_steps or progress.validations.is_over(config.early_stop_patience)


def any_rank(run: Run, stop: StopRequest, value: bool) -> bool:
    """Return whether ``value`` is true on at least one rank. All ranks call this at the same place.

    Raises:
        StopAskedError: a rank was asked to stop.
    """
    is_stop_asked, is_any_true = run.group.largest([int(stop.is_set), int(value)], run.step_inputs.device)
    if is_stop_asked:
        raise StopAskedError
    return bool(is_any_true)
