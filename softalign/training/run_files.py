"""Where a run's files lie on this machine, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SAMPLES_FOLDER = "samples"


@dataclass(frozen=True)
class RunFiles:
    """Where a run's files lie on this machine."""

    checkpoints_path: Path
    metrics_path: Path
    samples_path: Path
