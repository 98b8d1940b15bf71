"""Boundaries for looking at a comparison while it is drawn: what is spent of the error rate, look by look.

K. K. G. Lan and D. L. DeMets, Discrete sequential boundaries for clinical trials, 1983, with the spending function that
is like P. C. O'Brien and T. R. Fleming's boundary; integrated numerically, look by look (P. Armitage, C. K. McPherson
and B. C. Rowe, 1969). All of it is one-sided: whether a difference is above a threshold.

Shape legend: N nodes of the integration.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

_NODES = 512
_FAR = 9.0
"""Standard deviations below a mean beyond which nothing is left: 1e-19."""
_HIGHEST = 37.0
"""Of boundaries: beyond it floats hold no chance. Early ones of many looks are high, since little is spent."""


def spent_at(time: float, alpha: float) -> float:
    """Return how much of the one-sided error rate is spent at a time (0 to 1): little early, all at the end."""
    return float(2.0 * ndtr(ndtri(alpha / 2.0) / np.sqrt(time)))


@lru_cache
def equal_boundaries(num_looks: int, alpha: float) -> tuple[float, ...]:
    """Return the boundaries of so many looks after equally many images each."""
    return boundaries([(look + 1) / num_looks for look in range(num_looks)], alpha)


def boundaries(times: Sequence[float], alpha: float) -> tuple[float, ...]:
    """Return what the statistic of each look must be above: the chance of ever being, without an effect, is ``alpha``.

    Statistics of two looks have the correlation of a mean that grows by independent images, sqrt(t_1 / t_2). Means over
    prompts correlate more, since what prompts differ by stays; then the chance is smaller (D. Slepian, The one-sided
    barrier problem for Gaussian noise, 1962). So the boundaries depend on no variance, and are known before the run.

    Args:
        times: of the looks: the share of all images that is drawn by then, increasing to 1.
        alpha: the one-sided error rate.
    """
    spent = [spent_at(time, alpha) for time in times]
    found = [float(-ndtri(spent[0]))]
    nodes_N, weights_N = _interval(found[0] * times[0] ** 0.5, times[0])
    mass_N = weights_N * _normal(nodes_N, times[0])
    for look, (before, now) in enumerate(pairwise(times), start=1):
        step = now - before
        found.append(_boundary(nodes_N, mass_N, step, now, spent[look] - spent[look - 1]))
        inner_N, weights_N = _interval(found[-1] * now**0.5, now)
        mass_N = weights_N * (_normal(inner_N[:, None] - nodes_N, step) @ mass_N)
        nodes_N = inner_N
    return tuple(found)


def _boundary(
    nodes_N: NDArray[np.float64], mass_N: NDArray[np.float64], step: float, now: float, share: float
) -> float:
    """Return the boundary that is first crossed at this look with a given chance."""

    def excess(boundary: float) -> float:
        beyond_N = ndtr((nodes_N - boundary * now**0.5) / step**0.5)
        return float(np.log(mass_N @ beyond_N + 1e-300) - np.log(share))

    return float(brentq(excess, -_FAR, _HIGHEST))


def _interval(upper: float, variance: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes and weights of Gauss and Legendre below a boundary."""
    lower = -_FAR * variance**0.5
    nodes_N, weights_N = np.polynomial.legendre.leggauss(_NODES)
    half = (upper - lower) / 2.0
    return lower + half * (nodes_N + 1.0), half * weights_N


def _normal(values: NDArray[np.float64], variance: float) -> NDArray[np.float64]:
    """Return the density of a normal of mean 0."""
    density: NDArray[np.float64] = np.exp(-(values**2) / (2.0 * variance)) / np.sqrt(2.0 * np.pi * variance)
    return density
