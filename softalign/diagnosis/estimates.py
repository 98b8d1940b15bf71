"""Means over images with their intervals, and what two directions have in common.

Shape legend: B images, C H W latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from softalign.diagnosis.records import Estimate

Z_95 = 1.959964
"""Of 95 % intervals of a normal distribution."""


def mean_estimate(values_B: Float[Tensor, " B"]) -> Estimate:
    """Return the mean of one value per image; of a single image the interval is that value."""
    values_B = values_B.double().flatten().cpu()
    number, mean = len(values_B), float(values_B.mean())
    half = Z_95 * float(values_B.std()) / math.sqrt(number) if number > 1 else 0.0
    return Estimate(mean=mean, low=mean - half, high=mean + half, number=number)


def share_estimate(num_right: int, number: int) -> Estimate:
    """Return the share of images that are right, with Wilson's interval, which is honest at 0 and 1 too."""
    share, z2 = num_right / number, Z_95**2
    centre = (share + z2 / (2 * number)) / (1 + z2 / number)
    half = Z_95 / (1 + z2 / number) * math.sqrt(share * (1 - share) / number + z2 / (4 * number**2))
    return Estimate(mean=share, low=max(0.0, centre - half), high=min(1.0, centre + half), number=number)


def relative_norms(change_BCHW: Float[Tensor, "B C H W"], of_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, " B"]:
    """Return each image's norm of a change over the norm of what changed, float64."""
    return _norms(change_BCHW) / _norms(of_BCHW)


@dataclass(frozen=True, eq=False)
class Along:
    """How far changes lie along directions, image by image; float64.

    Attributes:
        cosines_B: between change and direction; 0 where one of them is 0.
        factors_B: the factor of the direction that is nearest to the change; 0 likewise.
    """

    cosines_B: Float[Tensor, " B"]
    factors_B: Float[Tensor, " B"]


def along(change_BCHW: Float[Tensor, "B C H W"], direction_BCHW: Float[Tensor, "B C H W"]) -> Along:
    """Return how far changes lie along directions."""
    products_B = (change_BCHW.double() * direction_BCHW.double()).flatten(1).sum(dim=1)
    norms_B, sizes_B = _norms(direction_BCHW), _norms(change_BCHW)
    tiny = torch.finfo(torch.float64).tiny
    return Along(products_B / (norms_B * sizes_B).clamp(min=tiny), products_B / norms_B.square().clamp(min=tiny))


def _norms(values_BCHW: Tensor) -> Tensor:
    norms_B: Tensor = torch.linalg.vector_norm(values_BCHW.double().flatten(1), dim=1)
    return norms_B
