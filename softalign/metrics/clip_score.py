"""CLIPScore (Hessel et al. 2021, arXiv 2104.08718): 2.5 * max(cosine, 0) of CLIP's embeddings of image and text.

The paper's weight is 2.5, its model ViT-B/32, and it puts "A photo depicts" before its captions; a suite's prompts
stand as they are here. Other programs print 100 * max(cosine, 0), which is 40 times as much.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from softalign.config.metrics import MetricConfig
from softalign.metrics.clip_cosine import ClipCosine

WEIGHT = 2.5
"""The paper's w, which stretches what CLIP's cosines reach to about 0..1."""


class ClipScore:
    """CLIPScore of an image and its prompt."""

    def __init__(self, config: MetricConfig, device: torch.device) -> None:
        """Load the model."""
        self.cosine = ClipCosine(config, device)

    def __call__(self, image: NDArray[np.uint8], prompt: str) -> float:
        """Return the score of a uint8 image (H, W, 3), 0..2.5."""
        return WEIGHT * max(self.cosine(image, prompt), 0.0)
