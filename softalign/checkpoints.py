"""Training checkpoints: written whole or not at all, verified when read, the last few kept. No pickles.

``checkpoints/step-00000050/`` holds ``state.safetensors`` (tokens, average, optimiser) and ``checkpoint.json``
(counters, the run's digest, the tensors' sha256). A folder appears under its name only when both are on the disk.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from softalign.artifacts import Frozen
from softalign.errors import DataError, IntegrityError
from softalign.soft_tokens import SoftTokens
from softalign.storage import sha256_of_file, write_atomically

logger = logging.getLogger(__name__)

STATE_NAME = "state.safetensors"
META_NAME = "checkpoint.json"


class Progress(Frozen):
    """Counters of a run and what it was asked for; all that a checkpoint knows besides tensors.

    Attributes:
        step: optimiser updates asked for so far (skipped ones included).
        num_skipped: updates left out because their loss or gradient was not finite.
        num_threads: CPU threads of the run; sums depend on it, so a resumed run keeps it.
        run_digest: digest of the configurations and inputs; a checkpoint of another run is refused.
    """

    step: int
    samples_seen: int
    num_skipped: int
    num_threads: int
    run_digest: str


class _Meta(Frozen):
    schema_version: int = 1
    progress: Progress
    state_sha256: str


@dataclass(frozen=True)
class TrainingState:
    """What training changes: the live tokens, their average and the optimiser."""

    live: SoftTokens
    ema: SoftTokens
    optimizer: torch.optim.AdamW

    def to_tensors(self) -> dict[str, Tensor]:
        """Return copies of everything on the CPU, by name."""
        named = {f"live.{name}": tensor for name, tensor in self.live.state_dict().items()}
        named |= {f"ema.{name}": tensor for name, tensor in self.ema.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{name}": tensor for name, tensor in slots.items()}
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in named.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what ``to_tensors`` returned."""
        self.live.load_state_dict(_under(tensors, "live."))
        self.ema.load_state_dict(_under(tensors, "ema."))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under(tensors, "optimizer.").items():
            index, _, slot = name.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def save_checkpoint(folder: Path, state: TrainingState, progress: Progress, *, keep: int) -> Path:
    """Write a checkpoint below ``folder``, drop all but the newest ``keep``, and return its place."""
    target = folder / f"step-{progress.step:08d}"
    temporary = folder / f".{target.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    write_atomically(temporary / STATE_NAME, save_tensors(state.to_tensors()))
    meta = _Meta(progress=progress, state_sha256=sha256_of_file(temporary / STATE_NAME))
    write_atomically(temporary / META_NAME, json.dumps(meta.model_dump(mode="json"), indent=1).encode() + b"\n")
    if target.exists():  # a damaged one of the same step, or the same step reached again
        shutil.rmtree(target)
    temporary.replace(target)
    _sync_folder(folder)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints below a folder, oldest first."""
    return sorted(folder.glob("step-*"))


def restore_newest(folder: Path, state: TrainingState, run_digest: str) -> Progress | None:
    """Load the newest sound checkpoint into ``state`` and return its counters, or None where there is none.

    A damaged checkpoint is passed over with a warning that names it.

    Raises:
        DataError: a sound checkpoint belongs to another run.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            progress, tensors = read_checkpoint(path)
        except IntegrityError as error:
            logger.warning("checkpoint %s is damaged and passed over: %s", path.name, error.what)
            continue
        if progress.run_digest != run_digest:
            raise DataError(
                "The checkpoints here belong to another run.",
                expected=f"run {run_digest}",
                found=f"run {progress.run_digest}",
                where=str(path),
                fix="remove this folder to start over",
            )
        state.load_tensors(tensors)
        return progress
    return None


def read_checkpoint(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    """Return a checkpoint's counters and tensors, verified.

    Raises:
        IntegrityError: a file is missing, truncated or changed.
    """
    try:
        meta = _Meta.model_validate_json((path / META_NAME).read_bytes())
        data = (path / STATE_NAME).read_bytes()
        found = sha256_of_file(path / STATE_NAME)
        if found != meta.state_sha256:
            raise IntegrityError(
                f"{STATE_NAME} is not what {META_NAME} says.", expected=meta.state_sha256, found=found, where=str(path)
            )
        return meta.progress, load_tensors(data)
    except (OSError, ValidationError, SafetensorError) as error:
        raise IntegrityError("It cannot be read.", found=str(error), where=str(path)) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
