"""The tensors of a safetensors file, read and looked at before anything is made of them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from softalign.errors import IntegrityError
from softalign.store.weights_file import require_small_header


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Raises:
        IntegrityError: it is no safetensors file, or its header is larger than any adapter's.
    """
    require_small_header(path, str(path))
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise IntegrityError(
            "The adapter's weights are not a safetensors file.", found=str(error), where=str(path)
        ) from error
    return tensors


def require_finite(tensors: dict[str, Tensor], where: str) -> None:
    """Refuse tensors with NaN or infinity.

    Raises:
        IntegrityError: names those that have them.
    """
    names = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if names:
        raise IntegrityError(
            "The adapter's weights are not all finite.",
            expected="finite numbers",
            found=f"NaN or infinity in {', '.join(names)}",
            where=where,
            fix="use another version of the adapter: this one's training diverged, or its file was damaged",
        )
