"""What a segmenter of known weights finds in a known picture, as it was found when this was written.

The weights come from a formula, in the order of the model's parameters; a version of ``transformers`` that has other
parameters is told apart, and nothing is said of it. A machine or library that scales pictures, attends, or turns logits
to instances otherwise finds something else in the picture.

The picture and its answers are this project's; the official weights' answers to photographs are not known here.
"""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softalign.artifacts import digest_of
from softalign.detectors.segmenter import Segmenter
from softalign.geneval.prompts import CLASSES

logger = logging.getLogger(__name__)

GOLDEN: tuple[tuple[str, float, float], ...] = (
    ("refrigerator", 0.5305, 0.0238),
    ("teddy bear", 0.5121, 0.0023),
    ("refrigerator", 0.4584, 0.0665),
    ("teddy bear", 0.4304, 0.0045),
    ("refrigerator", 0.4139, 0.0415),
    ("refrigerator", 0.4025, 0.0304),
    ("refrigerator", 0.3645, 0.0081),
)
"""Class, score and share of the picture of the best instances: transformers 5.23, PyTorch 2.13, on a CPU."""
SCORE_TOLERANCE, AREA_TOLERANCE = 2e-3, 2e-3
"""Of a score, and of a share of the picture. Scaled pixels that are not rounded move a score by 0.003, bicubic scaling
one by 0.013, exchanged colour channels change the classes."""
PARAMETERS = "1093cae607c4a7864d4935ec3b1c2718e2078e36b9fb0dc4725c3730d8d30201"
"""The digest of the parameters' names and shapes that these answers are of."""
_WIDTH = 32
_STAGES = ("stage1", "stage2", "stage3", "stage4")
_GAINS = {"class_predictor.weight": 12.0, "queries": 4.0, "mask_projection.weight": 6.0}
"""Of weights without which no query is sure of anything."""


@lru_cache(maxsize=4)
def golden_findings(device: torch.device) -> tuple[str, ...]:
    """Return how the known segmenter's answers to the known picture differ, in words; once for a device.

    Args:
        device: where it computes.
    """
    model = known_model()
    if parameters_digest(model) != PARAMETERS:
        logger.warning(
            "This transformers builds Mask2Former otherwise, so its answers to a known picture are not known"
        )
        return ()
    found = Segmenter(model, device)([picture()], above=0.3)[0][: len(GOLDEN)]
    answers = [(CLASSES[one.class_index], one.score, float(one.mask.mean())) for one in found]
    if len(answers) < len(GOLDEN):
        return (f"a known segmenter finds {len(answers)} instances in a known picture, not {len(GOLDEN)}",)
    return tuple(
        f"a known segmenter finds {_said(answer)} in a known picture, not {_said(known)}"
        for answer, known in zip(answers, GOLDEN, strict=True)
        if not _is_alike(answer, known)
    )


def _is_alike(answer: tuple[str, float, float], known: tuple[str, float, float]) -> bool:
    (name, score, area), (known_name, known_score, known_area) = answer, known
    is_near = abs(score - known_score) <= SCORE_TOLERANCE and abs(area - known_area) <= AREA_TOLERANCE
    return name == known_name and is_near


def _said(instance: tuple[str, float, float]) -> str:
    name, score, area = instance
    return f"a {name} with score {score:.4f} on {area:.1%}"


def known_model() -> Any:
    """Return a small ``Mask2FormerForUniversalSegmentation`` of COCO's classes, every weight from a formula."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    swin = SwinConfig(
        embed_dim=8,
        depths=[2, 1, 1, 1],
        num_heads=[1, 2, 4, 8],
        window_size=7,
        out_features=list(_STAGES),
        drop_path_rate=0.0,
    )
    widths = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward")
    config = Mask2FormerConfig(
        backbone_config=swin,
        id2label=dict(enumerate(CLASSES)),
        encoder_layers=1,
        decoder_layers=3,
        num_attention_heads=4,
        num_queries=12,
        **dict.fromkeys(widths, _WIDTH),
    )
    model = Mask2FormerForUniversalSegmentation._from_config(config, attn_implementation="eager")
    start = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and "sampling_offsets.bias" not in name:  # those begin as the definition says
                parameter.copy_(torch.from_numpy(_values(start, tuple(parameter.shape), _gain(name))))
            start += parameter.numel()
    return model


def parameters_digest(model: Any) -> str:
    """Return a digest of the names and shapes of a model's parameters, in their order."""
    return digest_of([[name, list(parameter.shape)] for name, parameter in model.named_parameters()])


def _gain(name: str) -> float:
    return next((gain for part, gain in _GAINS.items() if part in name), 1.0)


def _values(start: int, shape: tuple[int, ...], gain: float) -> NDArray[np.float32]:
    """Return numbers of both signs that look random: the fractions of a steep sine."""
    steep = np.sin((start + np.arange(math.prod(shape))) * 12.9898) * 43758.5453
    width = math.prod(shape[1:]) if len(shape) > 1 else 300
    values: NDArray[np.float64] = (2 * (steep - np.floor(steep)) - 1) * gain * math.sqrt(3 / width)
    return values.reshape(shape).astype(np.float32)


def picture() -> NDArray[np.uint8]:
    """Return the drawn picture (96, 128, 3): a slope with a square and a disc on it."""
    rows, columns = np.mgrid[0:96, 0:128]
    image = np.stack([rows * 2, columns, 255 - rows], axis=-1).astype(np.uint8)
    image[20:50, 20:50] = (220, 20, 20)
    image[(rows - 60) ** 2 + (columns - 90) ** 2 < 400] = (20, 50, 220)
    return image
