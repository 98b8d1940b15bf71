"""How far a folder's images are from a reference: FID and KID, or the same distances of another model's features."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from softalign.artifacts.metrics import SetDistances
from softalign.config.runtime import Runtime
from softalign.errors import ConfigError, DataError, MissingInputError
from softalign.evaluation.image_files import load_image
from softalign.geneval.image_faults import image_fault
from softalign.geneval.layout import IMAGE_SUFFIXES, METADATA_FILENAME, read_folders
from softalign.metrics.distances import (
    SetStatistics,
    frechet_distance,
    kernel_distance,
    read_statistics,
    statistics_of,
)
from softalign.metrics.features import FEATURES_FIELD, FeatureExtractor, load_features
from softalign.metrics.reference import FID_FEATURES, label_of, maker_of, other_features, require_maker
from softalign.processes.reporter import Reporter
from softalign.store.files import require_folder_place

STATISTICS_SUFFIX = ".npz"


class FolderDistances(SetDistances):
    """The distances of a folder from a reference."""

    source: str
    reference: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return self.model_dump(mode="json")

    def to_text(self) -> str:
        """Return the distances as lines, and of how many images they are."""
        lines = [f"{name:<24} {value:.6g}" for name, value in self.distances.items()]
        if self.kernel_std is not None:
            lines[-1] += f"  (standard deviation over subsets {self.kernel_std:.2g})"
        of = "an unknown number" if self.num_reference_images is None else str(self.num_reference_images)
        lines += ["", f"{self.num_images} images from {of} of {self.reference}, {self.num_features} features each."]
        if self.num_images <= self.num_features:
            lines.append(
                "With fewer images than features the Fréchet distance is too large: compare equal numbers alone."
            )
        return "\n".join(lines)


def distances_of(
    root: Path, reference: Path, features: str, runtime: Runtime, save_to: Path | None = None
) -> FolderDistances:
    """Return how far a folder's images are from a reference's.

    Args:
        root: a folder in GenEval's layout, or any folder of images.
        reference: another folder, or a file of statistics (``.npz``: ``mu`` and ``sigma``).
        features: the weights' file of FID's Inception network, or a vision model's folder or hub id.
        runtime: the device.
        save_to: where the folder's own statistics are written, as a later reference.

    Raises:
        MissingInputError: a folder, file or model is not there.
        DataError: an image is damaged, there are fewer than two, or the statistics cannot be read.
        CompatibilityError: the model cannot be used, or the statistics are of other features.
    """
    from softalign.backbones.frozen_pipeline import resolve_device

    if save_to is not None:
        _check_place(save_to)
    stored = None
    if reference.suffix == STATISTICS_SUFFIX:  # before a model is loaded for it
        maker = maker_of(features, FEATURES_FIELD)
        stored = stored_reference(reference, maker, label_of(features, maker))
    extract = load_features(features, resolve_device(runtime))
    own = _statistics(root, extract)
    if save_to is not None:
        own.save(save_to)
    other = _statistics(reference, extract) if stored is None else stored
    found = set_distances(reference, extract.label, own, other)
    return FolderDistances(source=str(root), reference=str(reference), **found.model_dump())


def write_statistics(root: Path, features: str, runtime: Runtime, save_to: Path) -> int:
    """Write the statistics of a folder's images, as a reference of others; return how many images there are.

    Args:
        root: a folder in GenEval's layout, or any folder of images.
        features: the weights' file of FID's Inception network, or a vision model's folder or hub id.
        runtime: the device.
        save_to: the file (``.npz``).

    Raises:
        MissingInputError: the folder or the model is not there.
        DataError: an image is damaged, or there are fewer than two.
        CompatibilityError: the model cannot be used.
    """
    from softalign.backbones.frozen_pipeline import resolve_device

    _check_place(save_to)
    own = _statistics(root, load_features(features, resolve_device(runtime)))
    own.save(save_to)
    return own.num_images or 0


def stored_reference(reference: Path, maker: str, label: str) -> SetStatistics:
    """Return a reference's statistics from their file.

    Args:
        reference: the file.
        maker: the digest of what makes the features that they are compared with.
        label: what those are called.

    Raises:
        MissingInputError: there is no such file.
        DataError: it cannot be read.
        CompatibilityError: it says that other features than these made it.
    """
    stored = read_statistics(reference)
    require_maker(reference, stored, maker, label)
    return stored


def set_distances(reference: Path, label: str, own: SetStatistics, other: SetStatistics) -> SetDistances:
    """Return how far a set is from another.

    Args:
        reference: where the other one is from, for messages.
        label: whose features both are of (``FeatureExtractor.label``).
        own: the set's statistics.
        other: the reference's.

    Raises:
        CompatibilityError: they have different numbers of features.
    """
    if len(other.mu) != len(own.mu):
        raise other_features(reference, f"{len(other.mu)} of them", f"{len(own.mu)} of {label}")
    names = ("fid", "kid") if label == FID_FEATURES else (f"frechet_distance[{label}]", f"kernel_distance[{label}]")
    distances, std = {names[0]: _rounded(frechet_distance(own, other))}, None
    if own.features is not None and other.features is not None:
        kernel = kernel_distance(own.features, other.features)
        distances[names[1]], std = _rounded(kernel.value), None if kernel.std is None else _rounded(kernel.std)
    return SetDistances(
        distances=distances,
        kernel_std=std,
        num_features=len(own.mu),
        num_images=own.num_images or 0,
        num_reference_images=other.num_images,
    )


def images_of(root: Path) -> tuple[Path, ...]:
    """Return a folder's images: in GenEval's layout the prompts' images, else every image file below it.

    Raises:
        MissingInputError: there is no such folder, or no image in it.
        DataError: an image is damaged; names the first.
    """
    if any(root.glob(f"*/{METADATA_FILENAME}")):
        paths = [root / name for folder in read_folders(root) for name in folder.filenames]
    else:
        paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise MissingInputError("There are no images.", expected="a folder of images", where=str(root))
    faults = [f"{path}: {fault}" for path in paths if (fault := image_fault(path))]
    if faults:
        raise DataError(
            "Images of a set cannot be read.",
            expected="whole images",
            found=f"{len(faults)} of {len(paths)} that are not; {faults[0]}",
            where=str(root),
            fix="make them anew, or move them away",
        )
    return tuple(paths)


def _rounded(value: float) -> float:
    """Return a number to six digits: later ones depend on how many threads multiply."""
    return float(f"{value:.6g}")


def _statistics(root: Path, extract: FeatureExtractor) -> SetStatistics:
    paths = images_of(root)

    def rows() -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        with Reporter("features", "images", len(paths)) as progress:
            for path in progress.over(paths):
                yield extract([load_image(io.BytesIO(path.read_bytes()))])

    return statistics_of(np.concatenate(list(rows())), extract.maker)


def _check_place(save_to: Path) -> None:
    require_folder_place(save_to.parent)
    if save_to.suffix != STATISTICS_SUFFIX or not save_to.parent.is_dir():
        raise ConfigError(
            "The statistics cannot be written there.",
            expected=f"a file with the suffix {STATISTICS_SUFFIX} in a folder",
            where=str(save_to),
        )
