"""PickScore (Kirstain et al. 2023, arXiv 2305.01569): what people prefer, by a CLIP-H that was tuned on their choices.

Its published model, yuvalkirstain/PickScore_v1, is a CLIP of ``transformers``. The score is CLIP's logit; differences
count: the probability that one of two images is preferred to the other is the sigmoid of theirs.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from softalign.config.metrics import MetricConfig
from softalign.metrics.clip_cosine import ClipCosine


class PickScore:
    """PickScore of an image and its prompt."""

    def __init__(self, config: MetricConfig, device: torch.device) -> None:
        """Load the model."""
        self.cosine = ClipCosine(config, device)

    def __call__(self, image: NDArray[np.uint8], prompt: str) -> float:
        """Return the score of a uint8 image (H, W, 3)."""
        return self.cosine.logit_scale * self.cosine(image, prompt)
