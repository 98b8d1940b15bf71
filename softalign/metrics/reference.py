"""What a distance from a reference is decided by: a file of statistics, and what gives the features; loads no torch."""

from __future__ import annotations

from pathlib import Path

from softalign.artifacts import digest_of
from softalign.backbones.locating import files_fingerprint
from softalign.config.metrics import DistanceConfig
from softalign.errors import MissingInputError
from softalign.metrics.distances import read_statistics

DISTANCE_FIELD = "evaluate.distance"
WEIGHTS_SUFFIXES = (".pth", ".pt", ".safetensors")


def weights_file(model: str, field: str) -> Path | None:
    """Return the file of Inception's weights that is named; None: it names a model's folder or hub id.

    Args:
        model: what is named.
        field: what names it.

    Raises:
        MissingInputError: there is no such file.
    """
    path = Path(model)
    if path.suffix.lower() not in WEIGHTS_SUFFIXES or path.is_dir():
        return None
    if not path.is_file():
        raise MissingInputError(
            "There is no such file of Inception's weights.",
            expected="weights-inception-2015-12-05-6726825d.pth of torch-fidelity's releases, or a model",
            where=f"{field}: {model}",
        )
    return path


def require_reference(config: DistanceConfig) -> None:
    """Refuse a distance whose reference or model is not there, before anything is done for it.

    Raises:
        MissingInputError: says which.
        DataError: the reference's file cannot be read.
    """
    from softalign.detectors.loading import located

    read_statistics(Path(config.reference))
    field = f"{DISTANCE_FIELD}.features"
    if weights_file(config.features, field) is None:
        located(config.features, None, field, "distance")


def distance_fingerprint(config: DistanceConfig) -> str:
    """Return a digest of what decides a distance beside the images."""
    return digest_of([files_fingerprint(name, None) for name in (config.reference, config.features)])
