"""What the parts of a training run share: the run itself, and how its ranks agree to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from softalign.config.runtime import Runtime
from softalign.data.encoding.reader import EncodedBatch
from softalign.processes.stopping import StopRequest
from softalign.processes.watchdog import Watchdog
from softalign.training.checkpoint_copies import CheckpointUploads
from softalign.training.checkpoints import Progress
from softalign.training.process_group import Team
from softalign.training.run_files import METRICS_NAME, SAMPLES_NAME, RunFiles
from softalign.training.sample_sheets import SampleSheets
from softalign.training.step import Stepper


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
    def files(self) -> RunFiles:
        """Where all of it lies that another machine needs."""
        return RunFiles(self.checkpoints_path, self.metrics_path, self.folder / SAMPLES_NAME)

    @property
    def team(self) -> Team:
        """The ranks that run this together."""
        return self.stepper.division.team


class StopAskedError(Exception):
    """A rank was asked to stop; all ranks learn it at the same place."""


def is_over(run: Run, progress: Progress) -> bool:
    """Return whether this was the last step: of all, or for lack of better validations."""
    config = run.stepper.config
    return progress.step == config.num_steps or progress.validations.is_over(config.early_stop_patience)


def agree(run: Run, stop: StopRequest, is_so: bool) -> bool:
    """Return whether it is so on any rank; all ranks ask together.

    Raises:
        StopAskedError: a rank was asked to stop.
    """
    is_stop_asked, is_any_so = run.team.largest([int(stop.is_set), int(is_so)], run.stepper.device)
    if is_stop_asked:
        raise StopAskedError
    return bool(is_any_so)
