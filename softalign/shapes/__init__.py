"""The embedded world: a text-to-image model small enough for two CPU cores, with everything around it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from softalign.errors import ConfigError, MissingInputError

__all__ = ["weights_path"]

WEIGHTS_FOLDERS = {"sd21": "weights", "sd3": "weights_sd3"}


def weights_path(family: str = "sd21") -> Path:
    """Return the folder of a shipped model, in diffusers layout; needs no torch.

    Args:
        family: ``sd21`` (U-Net, velocity) or ``sd3`` (MMDiT, flow matching).

    Raises:
        ConfigError: there is no embedded model of that family.
        MissingInputError: the installation has no weights.
    """
    if family not in WEIGHTS_FOLDERS:
        raise ConfigError(
            "There is no embedded model of this family.",
            expected=" or ".join(WEIGHTS_FOLDERS),
            found=family,
            where="backbone.family",
        )
    folder = Path(str(files(__name__).joinpath(WEIGHTS_FOLDERS[family])))
    if not (folder / "model_index.json").is_file():
        raise MissingInputError(
            "the embedded model's weights are not installed",
            expected="model_index.json",
            where=str(folder),
            fix="reinstall softalign, or make them with `softalign shapes pretrain --out DIR`",
        )
    return folder
