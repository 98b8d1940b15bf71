"""What a segmenter of known weights finds in a known picture, as it was found when this was written.

The weights come from a formula, so no file, no random generator and no other library decides them. A machine or a
version of a library that scales pictures, attends, or turns logits to instances otherwise finds something else in it.

The picture and its answers are this project's; the official weights' answers to photographs are not known here.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softalign.detectors.segmenter import Segmenter
from softalign.geneval.prompts import CLASSES

GOLDEN: tuple[tuple[str, float, float], ...] = (
    ("couch", 0.6223, 0.9109),
    ("sports ball", 0.6181, 0.9823),
    ("knife", 0.6011, 0.9346),
    ("car", 0.5903, 0.7529),
    ("sports ball", 0.5222, 0.9421),
    ("knife", 0.5074, 0.8907),
    ("knife", 0.4528, 0.9467),
)
"""Class, score and share of the picture of the best instances: transformers 5.23, PyTorch 2.13, on a CPU."""
SCORE_TOLERANCE, AREA_TOLERANCE = 2e-3, 2e-3
"""Of a score, and of a share of the picture. Scaled pixels that are not rounded move a score by 0.010, bicubic scaling
one by 0.007, exchanged colour channels change the classes."""
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
    found = Segmenter(known_model(), device)([picture()], above=0.3)[0][: len(GOLDEN)]
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
        for name, parameter in sorted(model.named_parameters()):
            if "norm" not in name and "sampling_offsets.bias" not in name:  # those begin as the definition says
                parameter.copy_(torch.from_numpy(_values(start, tuple(parameter.shape), _gain(name))))
            start += parameter.numel()
    return model


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
