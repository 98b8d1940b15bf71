"""Distances between two sets of images by their features: Fréchet's, and the kernel one.

Heusel et al. 2017 (arXiv 1706.08500): the Fréchet distance of two normal distributions with the sets' means and
covariances. Bińkowski et al. 2018 (arXiv 1801.01401): the unbiased squared maximum mean discrepancy under the kernel
(x y / D + 1)^3, as a mean over subsets. Both are called FID and KID with Inception's features alone.

Shape legend: N images, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softalign.errors import CompatibilityError, DataError, MissingInputError

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
"""The paper's 100 subsets of 1000 images; sets with fewer are compared whole, once."""
_FEATURES, _MAKER, _COUNT = "features", "features_of", "num_images"


@dataclass(frozen=True)
class SetStatistics:
    """What a distance needs of a set.

    Attributes:
        mu: the features' mean (D).
        sigma: their covariance (D, D), by N - 1.
        features: of each image (N, D); None where a file of statistics has none.
        maker: a digest of what made the features; empty where a file does not say it.
        num_images: None likewise.
    """

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    features: NDArray[np.float32] | None = None
    maker: str = ""
    num_images: int | None = None

    def save(self, path: Path) -> None:
        """Write a file that ``read_statistics`` reads, and pytorch-fid too (``mu``, ``sigma``)."""
        arrays: dict[str, Any] = {"mu": self.mu, "sigma": self.sigma, _MAKER: self.maker, _COUNT: self.num_images or 0}
        arrays |= {} if self.features is None else {_FEATURES: self.features}
        with path.open("wb") as file:
            np.savez(file, **arrays)


@dataclass(frozen=True)
class KernelDistance:
    """The mean over subsets and their standard deviation; None where the sets were compared whole."""

    value: float
    std: float | None


def statistics_of(features: NDArray[np.float32], maker: str) -> SetStatistics:
    """Return a set's statistics.

    Raises:
        DataError: fewer than two images have no covariance.
        CompatibilityError: features are no finite numbers.
    """
    if len(features) < 2:
        raise DataError("A set is too small for a distance.", expected="two images at least", found=str(len(features)))
    if not np.isfinite(features).all():
        raise CompatibilityError(
            "Features are no numbers.",
            expected="finite numbers",
            found=f"{int((~np.isfinite(features).all(axis=1)).sum())} of {len(features)} images without",
            fix="use weights without damage",
        )
    exact = features.astype(np.float64)
    return SetStatistics(exact.mean(axis=0), np.cov(exact, rowvar=False), features, maker, len(features))


def read_statistics(path: Path) -> SetStatistics:
    """Return the statistics of a file: ``.npz`` with ``mu`` and ``sigma``, as pytorch-fid writes it, or one of ours.

    Raises:
        MissingInputError: there is no such file.
        DataError: it is no such file; pickles are not read.
    """
    if not path.is_file():
        raise MissingInputError(
            "There is no such file of statistics.", expected="an .npz, or a folder", where=str(path)
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            mu, sigma = (stored[name].astype(np.float64) for name in ("mu", "sigma"))
            features = stored[_FEATURES] if _FEATURES in stored else None
            maker, count = (str(stored[_MAKER]), int(stored[_COUNT])) if _MAKER in stored else ("", 0)
        _check(mu, sigma, features)
    except Exception as error:  # what damaged files raise is not bounded
        raise DataError(
            "A file of statistics cannot be read.",
            expected="an .npz with mu (D) and sigma (D, D)",
            found=(str(error).strip() or type(error).__name__).splitlines()[0],
            where=str(path),
        ) from error
    return SetStatistics(mu, sigma, features, maker, count or None)


def _check(mu: NDArray[np.float64], sigma: NDArray[np.float64], features: NDArray[np.float32] | None) -> None:
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"mu of shape {mu.shape}, sigma of {sigma.shape}")
    if features is not None and (features.ndim != 2 or len(features) < 2 or features.shape[1] != len(mu)):
        raise ValueError(f"features of shape {features.shape}, mu of {mu.shape}")
    for name, values in (("mu", mu), ("sigma", sigma), ("features", features)):
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"{name} has values that are not finite")
    if (sigma.diagonal() < 0.0).any():
        raise ValueError("sigma has negative variances")


def frechet_distance(one: SetStatistics, other: SetStatistics) -> float:
    """Return the squared Fréchet distance: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    The trace of the root is that of (R S2 R)^(1/2) with R the root of S1: symmetric, so its eigenvalues are real.
    """
    values, vectors = np.linalg.eigh(one.sigma)
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ other.sigma @ root).clip(min=0.0)
    offset = one.mu - other.mu
    found = float(offset @ offset + np.trace(one.sigma) + np.trace(other.sigma) - 2.0 * np.sqrt(shared).sum())
    return max(found, 0.0)  # of equal sets roundings are left


def kernel_distance(
    one: NDArray[np.float32], other: NDArray[np.float32], *, seed: int = 0, subset_size: int = SUBSET_SIZE
) -> KernelDistance:
    """Return the kernel distance of two sets' features (N, D)."""
    if min(len(one), len(other)) < subset_size:
        return KernelDistance(_discrepancy(one, other), None)
    rng = np.random.default_rng(seed)
    found = [
        _discrepancy(*(part[rng.choice(len(part), subset_size, replace=False)] for part in (one, other)))
        for _ in range(NUM_SUBSETS)
    ]
    return KernelDistance(float(np.mean(found)), float(np.std(found)))


def _discrepancy(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the unbiased estimate: pairs of an image with itself do not count."""
    x, y = one.astype(np.float64), other.astype(np.float64)
    return _within(x) + _within(y) - 2.0 * float(_kernel(x, y).mean())


def _within(x: NDArray[np.float64]) -> float:
    kernel = _kernel(x, x)
    return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = (x @ y.T / x.shape[1] + 1.0) ** 3
    return values
