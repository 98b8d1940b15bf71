"""From Mask2Former's class and mask logits to instances, by the official rule (mmdet's instance post-processing).

Shape legend: Q queries, C classes, H x W pixels of the image, h x w of the mask logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from softalign.detectors.preprocessing import ImageSize

MAX_PER_IMAGE = 100
"""Pairs of query and class that are looked at, best class probability first (official configuration)."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Instance:
    """One object: class by its index, score 0..1, box in pixels (x0, y0, x1, y1) and mask (H, W)."""

    class_index: int
    score: float
    box: Box
    mask: NDArray[np.bool_]


def box_of(mask: NDArray[np.bool_]) -> Box:
    """Return the box around a mask's pixels: of the last row and column the far edge; zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def instances_of(
    class_logits_QC: Float[torch.Tensor, "Q C"],
    mask_logits: Float[torch.Tensor, "Q h w"],
    padded: ImageSize,
    scaled: ImageSize,
    original: ImageSize,
    above: float,
) -> list[Instance]:
    """Return the instances of one image with a score above ``above``, best first.

    A pair's score is its class probability, "no object" being a class too, times the mean of the mask's probability
    inside the mask. Masks are enlarged to the padded input, cut to the scaled image and brought to the original size.
    As the mean is at most 1, masks of pairs with a lower class probability need not be made.

    Args:
        class_logits_QC: the last class is "no object".
        mask_logits: a pixel is of the mask where its logit is above 0.
        padded: size of the model's input.
        scaled: size of the image within it.
        original: size of the image as it was.
        above: scores at or below it are left out.
    """
    probabilities = class_logits_QC.float().softmax(dim=-1)[:, :-1]
    num_classes = probabilities.shape[1]
    # a stable sort, not topk: ties have one order on every device
    best = probabilities.flatten().sort(descending=True, stable=True)
    instances = []
    for probability, pair in zip(best.values[:MAX_PER_IMAGE].tolist(), best.indices[:MAX_PER_IMAGE], strict=True):
        if probability <= above:
            break
        logits = _at_original_size(mask_logits[pair // num_classes], padded, scaled, original)
        mask = logits > 0
        score = probability * _mask_score(logits, mask)
        if score > above:
            pixels = mask.cpu().numpy()
            instances.append(Instance(int(pair) % num_classes, score, box_of(pixels), pixels))
    return sorted(instances, key=lambda instance: -instance.score)


def _at_original_size(
    logits: Float[torch.Tensor, "h w"], padded: ImageSize, scaled: ImageSize, original: ImageSize
) -> Float[torch.Tensor, "H W"]:
    enlarged = _resized(logits, padded)[: scaled.height_px, : scaled.width_px]
    return _resized(enlarged, original)


def _resized(logits: Float[torch.Tensor, "h w"], size: ImageSize) -> Float[torch.Tensor, "H W"]:
    return torch.nn.functional.interpolate(
        logits[None, None].float(), size=(size.height_px, size.width_px), mode="bilinear", align_corners=False
    )[0, 0]


def _mask_score(logits: Float[torch.Tensor, "H W"], mask: Bool[torch.Tensor, "H W"]) -> float:
    """Return the mean of the mask's probability inside it; 0 for an empty mask."""
    return float((logits.sigmoid() * mask).sum() / (mask.sum() + 1e-6))
