"""What a distance from a reference is decided by: a file of statistics, and what gives the features; loads no torch."""

from __future__ import annotations

from pathlib import Path

from softalign.artifacts import digest_of
from softalign.backbones.locating import files_fingerprint
from softalign.config.metrics import DistanceConfig
from softalign.errors import CompatibilityError, MissingInputError
from softalign.metrics.distances import SetStatistics, read_statistics
from softalign.store.files import sha256_of_file

DISTANCE_FIELD = "evaluate.distance"
OFFICIAL_INCEPTION_SHA256 = "6726825d"
"""The first digits of the sha256 of FID's published weights, which their file name ends in (PyTorch names files so)."""
FID_FEATURES = "inception"
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
    """Refuse a distance whose reference or model is not there, or do not go together, before anything is done for it.

    Raises:
        MissingInputError: one is not there.
        DataError: the reference's file cannot be read.
        CompatibilityError: another model than this made it.
    """
    from softalign.detectors.loading import located

    place, field = Path(config.reference), f"{DISTANCE_FIELD}.features"
    if not place.is_file():
        raise MissingInputError(
            "There is no such file of a reference's statistics.",
            expected="a local .npz with mu and sigma",
            found="a folder" if place.is_dir() else "no such file",
            where=f"{DISTANCE_FIELD}.reference: {config.reference}",
            fix="`softalign geneval distance DIR --features MODEL --save-statistics FILE` makes one of a folder",
        )
    if weights_file(config.features, field) is None:
        located(config.features, None, field, "distance")
    require_maker(place, read_statistics(place), maker_of(config.features), config.features)


def maker_of(features: str, field: str = DISTANCE_FIELD) -> str:
    """Return a digest of what makes features, as statistics have it; loads nothing.

    Args:
        features: a file of Inception's weights, or a model's folder or hub id.
        field: what names it.

    Raises:
        MissingInputError: there is no such file.
    """
    weights = weights_file(features, field)
    return files_fingerprint(features, None) if weights is None else sha256_of_file(weights)


def label_of(features: str, maker: str) -> str:
    """Return what features are called: ``inception`` with FID's published weights alone, else the model's name.

    Args:
        features: a file of Inception's weights, or a model's folder or hub id.
        maker: the digest of what makes them (``maker_of``).
    """
    weights = weights_file(features, DISTANCE_FIELD)
    if weights is None:
        return features
    return FID_FEATURES if maker.startswith(OFFICIAL_INCEPTION_SHA256) else f"{FID_FEATURES}:{weights.name}"


def require_maker(place: Path, statistics: SetStatistics, maker: str, label: str) -> None:
    """Refuse statistics that say that other features made them.

    Args:
        place: their file.
        statistics: what it holds.
        maker: the digest of what makes features here.
        label: what that is called.

    Raises:
        CompatibilityError: they are of another model.
    """
    if statistics.maker not in {"", maker}:
        raise other_features(place, "another model's", label)


def other_features(place: Path, found: str, expected: str) -> CompatibilityError:
    """Return the error of statistics that cannot be compared."""
    return CompatibilityError(
        "The reference's statistics are of other features.",
        expected=expected,
        found=found,
        where=str(place),
        fix="name the model that they were made with, or a folder of the reference's images",
    )


def distance_fingerprint(config: DistanceConfig) -> str:
    """Return a digest of what decides a distance beside the images."""
    return digest_of([files_fingerprint(name, None) for name in (config.reference, config.features)])
