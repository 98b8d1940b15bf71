"""The embedded world: a text-to-image model small enough for two CPU cores, with everything around it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from softalign.errors import MissingInputError

__all__ = ["weights_path"]


def weights_path() -> Path:
    """The folder of the shipped model, in diffusers layout; needs no torch.

    Raises:
        MissingInputError: if the installation has no weights.
    """
    folder = Path(str(files(__name__).joinpath("weights")))
    if not (folder / "model_index.json").is_file():
        raise MissingInputError(
            "the embedded model's weights are not installed",
            expected="model_index.json",
            where=str(folder),
            fix="reinstall softalign, or make them with `softalign shapes pretrain --out DIR`",
        )
    return folder
