"""Scores of an image and its prompt behind one protocol, and which there are; loads no torch before the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from softalign.artifacts import digest_of
from softalign.backbones.locating import files_fingerprint
from softalign.config.metrics import MetricConfig, MetricName

if TYPE_CHECKING:
    import torch

DEFINITIONS: dict[MetricName, str] = {
    "clip_score": "2.5 * max(cosine of image and prompt, 0)",
    "pick_score": "exp(logit scale) * cosine of image and prompt",
}
"""What the numbers are, as records say it."""


class Scorer(Protocol):
    """Says how well an image fits its prompt; whatever else is scored changes nothing."""

    def __call__(self, image: NDArray[np.uint8], prompt: str) -> float:
        """Return the score of a uint8 image (H, W, 3) and its prompt; higher is better."""
        ...


def load_scorer(config: MetricConfig, device: torch.device) -> Scorer:
    """Return a score's function, its model loaded.

    Raises:
        MissingInputError: its model is not there.
        CompatibilityError: the model cannot be used.
    """
    if config.name == "clip_score":
        from softalign.metrics.clip_score import ClipScore

        return ClipScore(config, device)
    from softalign.metrics.pick_score import PickScore

    return PickScore(config, device)


def require_model(config: MetricConfig) -> None:
    """Refuse a score whose model is not there, before anything is done for it.

    Raises:
        MissingInputError: says which.
    """
    from softalign.detectors.loading import located

    located(config.model, config.revision, f"evaluate.metrics, {config.name}", f"metric {config.name}")


def metric_fingerprint(config: MetricConfig) -> str:
    """Return a digest of what decides a score beside image and prompt."""
    tokenizer = None if config.tokenizer is None else files_fingerprint(config.tokenizer, None)
    return digest_of([config.name, files_fingerprint(config.model, config.revision), tokenizer])
