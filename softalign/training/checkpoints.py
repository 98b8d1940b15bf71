"""Training checkpoints: written whole or not at all, verified when read, the last few and the best kept. No pickles.

``checkpoints/step-00000050/`` holds ``state.safetensors`` (tokens, average, optimiser) and ``checkpoint.json``
(counters, the run's digest, the tensors' sha256). A folder appears under its name only when both are on the disk.

There is no state of random generators to keep, on any rank: order, captions and noise are functions of the seed and of
``samples_seen``, and the learning rate is one of ``step``. Every rank holds the same tokens, so one of them writes.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import AliasChoices, Field
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from softalign.artifacts import Frozen, require_format
from softalign.errors import DataError, IntegrityError
from softalign.method.soft_tokens import SoftTokens
from softalign.store.adapter_files import CONFIG_FILENAME
from softalign.store.files import replacing, sha256_of_file
from softalign.training.validation_history import ValidationHistory
from softalign.version import __version__

logger = logging.getLogger(__name__)

STATE_FILENAME = "state.safetensors"
META_FILENAME = "checkpoint.json"


class Progress(Frozen):
    """Counters of a run and what it was asked for; all that a checkpoint knows besides tensors.

    Attributes:
        step: optimiser updates asked for so far (skipped ones included).
        num_skipped: updates left out because their loss or gradient was not finite.
        num_threads: CPU threads of the run; sums depend on it, so a resumed run keeps it.
        micro_batch_size: pairs per denoiser call, kept for the same reason; None: the whole grid, or not yet known.
        validations: which step was best so far, and for how long.
        is_evaluated: validation and samples of this step are done, or not due; a run that is stopped leaves them to the
            next attempt. Older checkpoints call it ``is_looked_at``.
        run_digest: digest of the configurations and inputs; a checkpoint of another run is refused.
    """

    step: int
    samples_seen: int
    num_skipped: int
    num_threads: int
    run_digest: str
    micro_batch_size: int | None = None
    validations: ValidationHistory = ValidationHistory()
    is_evaluated: bool = Field(True, validation_alias=AliasChoices("is_evaluated", "is_looked_at"))


SCHEMA_VERSION: Final = 2
"""Of ``checkpoint.json``, the names in ``Progress`` and ``ValidationHistory`` included, and of the tensors' names."""


class _Meta(Frozen):
    schema_version: Literal[2] = SCHEMA_VERSION
    library_version: str = ""
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
        """Load the tensors that ``to_tensors`` returned."""
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
    """Write a checkpoint below ``folder``, drop all but the newest ``keep`` and the best, and return its place."""
    target = checkpoint_path(folder, progress.step)
    with replacing(target, drops_folder=True) as made:  # a damaged one, or the same step reached again
        made.mkdir()
        (made / STATE_FILENAME).write_bytes(save_tensors(state.to_tensors()))
        meta = _Meta(library_version=__version__, progress=progress, state_sha256=sha256_of_file(made / STATE_FILENAME))
        (made / META_FILENAME).write_bytes(json.dumps(meta.model_dump(mode="json"), indent=1).encode() + b"\n")
    best = progress.validations.best_step
    for old in list_checkpoints(folder)[:-keep]:
        if best is None or old != checkpoint_path(folder, best):
            shutil.rmtree(old)
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return target


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the place of a step's checkpoint."""
    return folder / f"step-{step:08d}"


def checkpoint_step(path: Path) -> int:
    """Return the step of a checkpoint's place."""
    return int(path.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints below a folder, oldest first."""
    return sorted(folder.glob("step-*"))


def restore_newest(
    folder: Path, state: TrainingState, run_digest: str, *, is_best_needed: bool = False
) -> Progress | None:
    """Load the newest sound checkpoint into ``state`` and return its counters, or None where there is none.

    A damaged checkpoint is passed over with a warning that names it. So is one whose best step's checkpoint is damaged,
    if the run is going to export that one: going on from before it makes it again. What is passed over is set aside
    under another name, so that it is not taken for the run's newest state.

    Raises:
        DataError: a sound checkpoint belongs to another run, or an adapter lies where checkpoints are expected.
        CompatibilityError: the newest one is of another format version: not damaged, so nothing is passed over.
    """
    for path in reversed(list_checkpoints(folder)):
        refuse_adapter(str(path), (path / CONFIG_FILENAME).is_file())
        try:
            progress, tensors = read_checkpoint(path)
            best = progress.validations.best_step
            if is_best_needed and best is not None:
                read_checkpoint(checkpoint_path(folder, best))
        except IntegrityError as error:
            aside = _set_aside(path)
            logger.warning(
                "checkpoint %s is damaged and passed over, see %s: %s %s", path.name, aside, error.what, error.where
            )
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


def _set_aside(path: Path) -> str:
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    return aside.name


def pack_checkpoint(state: TrainingState, progress: Progress) -> bytes:
    """Return state and counters as bytes for another process."""
    data: bytes = save_tensors(state.to_tensors(), metadata={"progress": progress.model_dump_json()})
    return data


def unpack_checkpoint(data: bytes, state: TrainingState) -> Progress:
    """Load what ``pack_checkpoint`` returned into ``state`` and return the counters."""
    state.load_tensors(load_tensors(data))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return Progress.model_validate_json(header["__metadata__"]["progress"])


def load_best(folder: Path, state: TrainingState, progress: Progress) -> Progress:
    """Load the best validation's checkpoint into ``state`` and return its counters.

    Raises:
        IntegrityError: it is missing or damaged.
        DataError: no validation was ever the best: none had a finite loss.
    """
    best = progress.validations.best_step
    if best is None:
        raise DataError(
            "No validation can be the best one.",
            expected="a validation with a finite loss",
            where=str(folder),
            fix="look at the held-out samples' latents, or set train.export_step=last",
        )
    best_progress, tensors = read_checkpoint(checkpoint_path(folder, best))
    state.load_tensors(tensors)
    return best_progress


def refuse_adapter(where: str, is_adapter: bool) -> None:
    """Refuse to resume from an exported adapter: it has tokens, but neither optimiser nor counters.

    Raises:
        DataError: it is one.
    """
    if is_adapter:
        raise DataError(
            "This is an exported adapter, not a checkpoint: training cannot be resumed from it.",
            expected=f"{STATE_FILENAME} and {META_FILENAME}",
            found=CONFIG_FILENAME,
            where=where,
            fix=f"to start a new run from its tokens set train.init_from={where}",
        )


def read_checkpoint(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    """Return a checkpoint's counters and tensors, verified.

    Raises:
        IntegrityError: a file is missing, truncated or changed.
        CompatibilityError: it is of another format version.
    """
    try:
        meta = _read_meta(path / META_FILENAME)
        data = (path / STATE_FILENAME).read_bytes()
        found = sha256_of_file(path / STATE_FILENAME)
        if found != meta.state_sha256:
            raise IntegrityError(
                f"{STATE_FILENAME} is not what {META_FILENAME} says.",
                expected=meta.state_sha256,
                found=found,
                where=str(path),
            )
        is_named = path.name.startswith("step-")  # a copy under way has a name of its own
        if is_named and checkpoint_path(path.parent, meta.progress.step) != path:
            raise IntegrityError(
                f"{META_FILENAME} is not of this checkpoint.", expected=path.name, found=f"step {meta.progress.step}"
            )
        return meta.progress, load_tensors(data)
    except (OSError, ValueError, SafetensorError, RecursionError) as error:
        raise IntegrityError("It cannot be read.", found=str(error), where=str(path)) from error


def _read_meta(path: Path) -> _Meta:
    data = path.read_bytes()
    fix = f"remove {path.parent.parent} to start over"
    require_format(json.loads(data), SCHEMA_VERSION, "This checkpoint", where=str(path), fix=fix)
    return _Meta.model_validate_json(data)
